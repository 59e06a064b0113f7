"""Demonstrations for Hopper by partly trained agents; the others start here."""

from ml_collections import ConfigDict

from dynvgd_jax.core.fields import apply_preset


def get_config(preset: str = "") -> ConfigDict:
    """Returns the configuration; the preset "quick" collects a tenth."""
    config = ConfigDict()
    config.job = "demos"
    config.task = "hopper"
    # Seed of the agents' order, of the resets and of the draws of actions.
    config.seed = 0
    # Folder of the agents, agent<number>.npz, made by configs/hopper_agent.py.
    config.agents = "data/hopper_agent"
    # Share of each agent, in the order in which they reached their returns, relative to
    # their sum. Our choice: a policy cloned from all of them has good and bad modes.
    config.operators = ConfigDict({"agent1": 0.3, "agent2": 0.3, "agent3": 0.4})
    # Episodes.
    config.num_episodes = 300
    # Environments that run at once; it changes how an agent's products are rounded.
    config.num_envs = 20

    config.env = ConfigDict()
    # Threads that step environments; 0 takes one per core that may be used.
    config.env.num_threads = 0
    return with_preset(config, preset)


def with_preset(config: ConfigDict, preset: str) -> ConfigDict:
    """Returns the locked configuration after the preset."""
    return apply_preset(config, preset, {"quick": _quick}).lock()


def _quick(config: ConfigDict) -> None:
    config.num_episodes //= 10
