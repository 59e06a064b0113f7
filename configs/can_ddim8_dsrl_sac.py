"""DSRL-SAC on Can with 8 DDIM steps.

Of its published numbers only the noise magnitude is known to us; others are DSRL-NA's.
"""

from configs import can_ddim8_dsrl_na


def get_config(preset: str = ""):
    """Returns the run's configuration; presets: "" (full size) and "quick"."""
    config = can_ddim8_dsrl_na.get_config(preset)
    config.method = "dsrl_sac"
    # Published.
    config.dsrl.noise_magnitude = 1.5
    return config
