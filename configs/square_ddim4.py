"""Dynamic VGD on Square with 4 DDIM steps, as published."""

from configs import base


def get_config(preset: str = ""):
    """Returns the run's configuration; presets: "" (published), see `base`."""
    config = base.get_config()
    config.task = "square"
    config.ddim_steps = 4
    config.guidance.last_k = 2
    # 2001 vector steps x 8 environments x 4. Published.
    config.first_rollout_env_steps = 64_032
    return base.with_preset(config, preset)
