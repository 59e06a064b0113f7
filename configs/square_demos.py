"""Demonstrations for Square by a mixture of scripted operators."""

from ml_collections import ConfigDict

from configs import can_demos


def get_config(preset: str = "") -> ConfigDict:
    """Returns the configuration; the preset "quick" collects a tenth."""
    config = can_demos.get_config().unlock()
    config.task = "square"
    # Share of each operator (dynvgd_jax/demos/square.py), relative to their sum.
    del config.operators
    config.operators = ConfigDict(
        {
            "careful": 0.26,
            "swift": 0.12,
            "leftward": 0.08,
            "high": 0.10,
            "careless": 0.44,
        }
    )
    return can_demos.with_preset(config, preset)
