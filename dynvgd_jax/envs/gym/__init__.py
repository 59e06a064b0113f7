"""Gymnasium's environments with Box spaces; importing this imports none of them."""

from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from dynvgd_jax.core.fields import Rule
from dynvgd_jax.core.normalize import Normalization
from dynvgd_jax.envs.base import EnvSizes
from dynvgd_jax.envs.gym.tasks import IDS, SIZES

if TYPE_CHECKING:
    from dynvgd_jax.envs.gym.render import GymCamera
    from dynvgd_jax.envs.gym.vector import GymVectorEnv

# `env.num_threads` has its rule at robosuite, and means the same here.
FIELDS: dict[str, Rule] = {}


def task_names() -> tuple[str, ...]:
    """Returns the tasks' names in configurations; `gym:` and an id names any other."""
    return tuple(IDS)


def sizes(task: str) -> EnvSizes:
    """Returns the sizes of one of `task_names`."""
    return SIZES[task]


def make_env(
    config: ConfigDict, normalization: Normalization | None, num_envs: int
) -> "GymVectorEnv":
    """Returns environments of `config.task`."""
    from dynvgd_jax.envs.gym.vector import GymVectorEnv

    return GymVectorEnv(
        config.task, num_envs, normalization, num_threads=config.env.num_threads
    )


def make_camera(
    config: ConfigDict, normalization: Normalization, size: int
) -> "GymCamera":
    """Returns what draws episodes of `config.task`; loads OpenGL."""
    from dynvgd_jax.envs.gym.render import GymCamera

    return GymCamera(config.task, normalization, size)
