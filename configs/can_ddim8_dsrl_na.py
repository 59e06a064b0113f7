"""DSRL-NA on Can with 8 DDIM steps, as published."""

from configs import base


def get_config(preset: str = ""):
    """Returns the run's configuration; presets: "" (published) and "quick"."""
    config = base.get_config()
    config.task = "can"
    as_published(config)
    config.gamma = 0.99
    # 1501 vector steps x 4 environments x 4, as of Dynamic VGD; DSRL's is not known.
    config.first_rollout_env_steps = 24_016
    return base.apply_preset(config, preset, {"quick": quick})


def as_published(config) -> None:
    """What the published DSRL-NA runs have in common; budget and evaluation are ours.

    See `base` for what is published of `dsrl`.
    """
    config.method = "dsrl_na"
    config.ddim_steps = 8
    config.num_envs = 4
    config.critic.num = 2
    config.learning_rate = 3e-4
    config.batch_size = 256
    config.target_clip = 0.0
    # The base policy that it is compared with; the actor's own noise is learned.
    config.acting_noise = "randn"
    config.eval.noises = ("randn", "tanh_randn")
    # 1000 vector steps x 4 environments x 4. Our choice.
    config.eval.every_env_steps = 16_000
    config.checkpoint.every_env_steps = 16_000


def quick(config) -> None:
    """Small networks and a short run on two CPU cores: all numbers are ours.

    Episodes, returns and budget are those of `base`'s preset "quick".
    """
    config.critic.width = config.dsrl.actor_width = 256
    config.gamma = 0.97
    config.num_envs = 16
    config.total_env_steps = 192_000
    config.first_rollout_env_steps = 32_000
    config.utd = 16
    config.end_at_success = True
    config.bootstrap_at_time_limit = True
    config.target_n_step = 3
    config.critic.initial_value = -80.0
    # A fresh actor's entropy is some 17 nats, a chunk's reward -4: from a coefficient
    # of 1 the critics would learn entropy alone for some 10,000 gradient steps.
    config.dsrl.initial_entropy_coef = 0.05
    config.log.every_env_steps = 1_280
    config.eval.every_env_steps = 64_000
    config.eval.num_envs = 20
    config.checkpoint.every_env_steps = 32_000
