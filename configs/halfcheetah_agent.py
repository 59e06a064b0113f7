"""An agent for HalfCheetah, trained partly."""

from ml_collections import ConfigDict

from configs import hopper_agent


def get_config(preset: str = "") -> ConfigDict:
    """Returns the configuration; all numbers are ours."""
    config = hopper_agent.get_config().unlock()
    config.task = "halfcheetah"
    # Of D4RL's expert's 12135.
    config.returns = (2_000.0, 3_000.0, 4_000.0)
    return hopper_agent.with_preset(config, preset)
