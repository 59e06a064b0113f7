"""Demonstrations for Walker2d by partly trained agents."""

from ml_collections import ConfigDict

from configs import hopper_demos


def get_config(preset: str = "") -> ConfigDict:
    """Returns the configuration; the preset "quick" collects a tenth."""
    config = hopper_demos.get_config().unlock()
    config.task = "walker2d"
    config.agents = "data/walker2d_agent"
    return hopper_demos.with_preset(config, preset)
