"""DSRL-NA on Square with 8 DDIM steps, as published."""

from configs import base, can_ddim8_dsrl_na


def get_config(preset: str = ""):
    """Returns the run's configuration; presets: "" (published) and "quick"."""
    config = base.get_config()
    config.task = "square"
    can_ddim8_dsrl_na.as_published(config)
    # 2001 vector steps x 4 environments x 4. Published, and so is gamma, `base`'s.
    config.first_rollout_env_steps = 32_016
    return base.apply_preset(config, preset, {"quick": can_ddim8_dsrl_na.quick})
