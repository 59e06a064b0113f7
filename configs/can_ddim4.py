"""Dynamic VGD on Can with 4 DDIM steps, as published."""

from configs import base


def get_config(preset: str = ""):
    """Returns the run's configuration; presets: "" (published), see `base`."""
    config = base.get_config()
    config.task = "can"
    config.ddim_steps = 4
    return base.with_preset(config, preset)
