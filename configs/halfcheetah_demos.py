"""Demonstrations for HalfCheetah by partly trained agents."""

from ml_collections import ConfigDict

from configs import hopper_demos


def get_config(preset: str = "") -> ConfigDict:
    """Returns the configuration; the preset "quick" collects a tenth."""
    config = hopper_demos.get_config().unlock()
    config.task = "halfcheetah"
    config.agents = "data/halfcheetah_agent"
    # All of them last for 1,000 control steps.
    config.num_episodes = 120
    return hopper_demos.with_preset(config, preset)
