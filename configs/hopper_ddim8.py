"""Dynamic VGD on Hopper with 8 DDIM steps; the other gym tasks start here.

Of steering on gym tasks no number is published that is known to us: those of `base`
stand where the task does not decide, and what differs here is ours. The base policies'
layout is DPPO's (`hopper_pretrain`), and so are chunks of 4 and the limit of 1000
control steps.
"""

from configs import base


def get_config(preset: str = ""):
    """Returns the run's configuration; presets: "" (full size) and "quick"."""
    return for_task("hopper", preset)


def for_task(task: str, preset: str):
    """Returns the run's configuration of a gym task."""
    config = base.get_config()
    config.task = task
    config.ddim_steps = 8
    # Rewards are dense, and an episode that goes on is worth more than one that ends.
    config.reward_offset = 0.0
    # Some 250 chunks in which a fall costs what would have followed.
    config.gamma = 0.99
    # A good return is worth more than Dynamic VGD's 400.
    config.target_clip = 0.0
    # A walk that the time limit cuts off goes on.
    config.bootstrap_at_time_limit = True
    # Also where proposals are classified: bins over an expert's returns.
    config.critic.v_min, config.critic.v_max = 0.0, 2_000.0
    return base.apply_preset(config, preset, {"quick": _quick})


def _quick(config) -> None:
    """The critics choose among chunks, as in `base`'s preset of that name."""
    kept = ("reward_offset", "target_clip", "bootstrap_at_time_limit")
    values = {name: config[name] for name in kept}
    base.with_preset(config, "quick")
    for name, value in values.items():
        config[name] = value
    config.end_at_success = False
    # Of a walk at 3 a control step, a chunk of which counts 12.
    config.critic.initial_value = 150.0
    # Dense rewards teach with less: a quarter of the gradient steps, of an eighth of
    # the work each.
    config.critic.num = 2
    config.batch_size = 128
    config.target_proposals = 2
    config.utd = 8
    config.total_env_steps = 160_000
    config.first_rollout_env_steps = 8_000
    config.eval.episodes = 100
    config.eval.every_env_steps = 32_000
    config.checkpoint.every_env_steps = 16_000
