"""An agent for Walker2d, trained partly."""

from ml_collections import ConfigDict

from configs import hopper_agent


def get_config(preset: str = "") -> ConfigDict:
    """Returns the configuration; all numbers are ours."""
    config = hopper_agent.get_config().unlock()
    config.task = "walker2d"
    # Of D4RL's expert's 4592.
    config.returns = (900.0, 1300.0, 1700.0)
    return hopper_agent.with_preset(config, preset)
