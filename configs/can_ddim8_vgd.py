"""VGD on Can with 8 DDIM steps, as published."""

from configs import base


def get_config(preset: str = ""):
    """Returns the run's configuration; presets: "" (published), see `base`."""
    config = base.get_config()
    config.task = "can"
    as_published(config)
    config.guidance.scale = 0.01
    config.guidance.last_k = 5
    config.batch_size = 1024
    config.gamma = 0.99
    return base.with_preset(config, preset)


def as_published(config) -> None:
    """What the published VGD runs have in common and Dynamic VGD's have not."""
    config.method = "vgd"
    config.ddim_steps = 8
    config.critic.num = 2
    config.learning_rate = 3e-4
    config.target_clip = 0.0
