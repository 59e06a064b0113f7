"""The environments that a configuration asks for."""

from ml_collections import ConfigDict

from dynvgd_jax.envs.normalize import Normalization
from dynvgd_jax.types import VectorEnv


def robosuite_env(
    config: ConfigDict, num_envs: int, normalization: Normalization
) -> VectorEnv:
    """Returns `num_envs` environments of `config.task`, stepped as `config.env` says.

    The simulator is imported only here: the learner also runs where it is missing.
    """
    from dynvgd_jax.envs.vector import RobosuiteVectorEnv

    return RobosuiteVectorEnv(
        config.task,
        num_envs,
        normalization,
        engine=config.env.engine,
        num_threads=config.env.num_threads,
    )
