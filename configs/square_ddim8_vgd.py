"""VGD on Square with 8 DDIM steps, as published."""

from configs import base, can_ddim8_vgd


def get_config(preset: str = ""):
    """Returns the run's configuration; presets as of Can's."""
    config = base.get_config()
    config.task = "square"
    can_ddim8_vgd.as_published(config)
    # 2001 vector steps x 8 environments x 4. Published.
    config.first_rollout_env_steps = 64_032
    # Gradient steps. Published.
    config.guidance.warmup_updates = 80_000
    return can_ddim8_vgd.with_preset(config, preset)
