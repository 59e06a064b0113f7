"""Demonstrations for Lift by a mixture of scripted operators."""

from ml_collections import ConfigDict

from configs import can_demos


def get_config(preset: str = "") -> ConfigDict:
    """Returns the configuration; the preset "quick" collects a tenth."""
    config = can_demos.get_config().unlock()
    config.task = "lift"
    # Share of each operator (dynvgd_jax/demos/lift.py), relative to their sum.
    del config.operators
    config.operators = ConfigDict(
        {
            "careful": 0.09,
            "swift": 0.06,
            "high": 0.51,
            "beside": 0.34,
        }
    )
    # Long, so that a policy that has given up seldom starts anew.
    config.rest_steps = 80
    return can_demos.with_preset(config, preset)
