"""Demonstrations for Transport by a mixture of scripted operators."""

from ml_collections import ConfigDict

from configs import can_demos


def get_config(preset: str = "") -> ConfigDict:
    """Returns the configuration; the preset "quick" collects a tenth."""
    config = can_demos.get_config().unlock()
    config.task = "transport"
    config.num_episodes = 200  # of some 400 control steps
    # Share of each operator (dynvgd_jax/demos/transport.py), relative to their sum.
    del config.operators
    config.operators = ConfigDict(
        {
            "careful": 0.42,
            "swift": 0.30,
            "high": 0.06,
            "early": 0.08,
            "careless": 0.07,
            "hasty": 0.07,
        }
    )
    return can_demos.with_preset(config, preset)
