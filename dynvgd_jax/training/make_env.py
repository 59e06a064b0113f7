"""The environments that a configuration asks for."""

from ml_collections import ConfigDict

from dynvgd_jax.core.normalize import Normalization
from dynvgd_jax.core.types import VectorEnv
from dynvgd_jax.diffusion.policy import Policy


def robosuite_env(
    config: ConfigDict, num_envs: int, normalization: Normalization
) -> VectorEnv:
    """Returns `num_envs` environments of `config.task`, stepped as `config.env` says.

    The simulator is imported only here: the learner also runs where it is missing.
    """
    from dynvgd_jax.envs.robosuite.vector import RobosuiteVectorEnv

    return RobosuiteVectorEnv(
        config.task,
        num_envs,
        normalization,
        engine=config.env.engine,
        num_threads=config.env.num_threads,
    )


def env_for_policy(config: ConfigDict, policy: Policy, num_envs: int) -> VectorEnv:
    """Returns the environments in which `policy` acts.

    Raises:
      UserError: the policy is for another task.
    """
    policy.require_task(config.task)
    return robosuite_env(config, num_envs, policy.normalization)
