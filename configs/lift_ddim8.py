"""Dynamic VGD on Lift with 8 DDIM steps.

No Dynamic VGD run on Lift is published: where VGD's published Lift run has a number, it
stands here; the dynamic weight's own constants are those of the other tasks.
"""

from configs import base


def get_config(preset: str = ""):
    """Returns the run's configuration; presets: "" (full size), see `base`."""
    config = base.get_config()
    config.task = "lift"
    config.ddim_steps = 8
    config.num_envs = 4
    # 1501 vector steps x 4 environments x 4.
    config.first_rollout_env_steps = 24_016
    config.utd = 30
    config.learning_rate = 3e-4
    config.gamma = 0.99
    config.guidance.warmup_updates = 50_000
    # 1000 vector steps x 4 environments x 4.
    config.eval.every_env_steps = 16_000
    config.checkpoint.every_env_steps = 16_000
    config = base.with_preset(config, preset)
    if preset == "published_quick":
        # The full warm-up would outlast the 15,000 gradient steps of such a run.
        config.guidance.warmup_updates = 2_500
    return config
