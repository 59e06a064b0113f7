"""An agent for Hopper, trained partly: it demonstrates; the others start here."""

from ml_collections import ConfigDict

from dynvgd_jax.core.fields import apply_preset


def get_config(preset: str = "") -> ConfigDict:
    """Returns the configuration; all numbers are ours. There are no presets."""
    config = ConfigDict()
    config.job = "agent"
    # "hopper", "walker2d", "halfcheetah", or "gym:" and gymnasium's id of an
    # environment with Box spaces.
    config.task = "hopper"
    # Of the weights, the batches, the resets and the exploration.
    config.seed = 0
    # Mean returns of an evaluation at which the agent is written, and after the last of
    # which the training ends: a fifth to two fifths of D4RL's expert (3234).
    config.returns = (700.0, 1000.0, 1300.0)
    # Control steps within which that must happen.
    config.total_env_steps = 2_000_000
    # Environments.
    config.num_envs = 8
    # Control steps of each between two updates.
    config.horizon = 256
    # Passes over them.
    config.epochs = 10
    # Control steps per gradient step.
    config.batch_size = 64
    # Adam's step size.
    config.learning_rate = 3e-4
    # Discount per control step, and of the advantages' horizon.
    config.gamma = 0.99
    config.gae_lambda = 0.95
    # How far the probability of an action may move from its old one, as a ratio.
    config.clip = 0.2
    # Hidden units per layer and hidden layers of policy and value.
    config.width = 64
    config.depth = 2

    config.eval = ConfigDict()
    # Episodes per evaluation, actions drawn.
    config.eval.episodes = 16
    # Control steps between evaluations.
    config.eval.every_env_steps = 20_000

    config.env = ConfigDict()
    # Threads that step environments; 0 uses every core.
    config.env.num_threads = 0
    return with_preset(config, preset)


def with_preset(config: ConfigDict, preset: str) -> ConfigDict:
    """Returns the locked configuration."""
    return apply_preset(config, preset, {}).lock()
