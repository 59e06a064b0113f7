"""robosuite 1.4.1's Panda tasks; importing this imports no simulator."""

from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from dynvgd_jax.core.fields import number, one_of
from dynvgd_jax.core.normalize import Normalization
from dynvgd_jax.envs.base import EnvSizes
from dynvgd_jax.envs.robosuite.tasks import TASKS

if TYPE_CHECKING:
    from dynvgd_jax.envs.robosuite.render import RobosuiteCamera
    from dynvgd_jax.envs.robosuite.vector import RobosuiteVectorEnv

ENGINES = ("compiled", "exact", "robosuite")

FIELDS = {"env.engine": one_of(ENGINES), "env.num_threads": number(0, 4096)}


def task_names() -> tuple[str, ...]:
    """Returns the tasks' names in configurations."""
    return tuple(TASKS)


def sizes(task: str) -> EnvSizes:
    """Returns the sizes of one of `task_names`."""
    return TASKS[task].sizes


def make_env(
    config: ConfigDict, normalization: Normalization | None, num_envs: int
) -> "RobosuiteVectorEnv":
    """Returns environments of `config.task`, stepped as `config.env` says."""
    from dynvgd_jax.envs.robosuite.vector import RobosuiteVectorEnv

    return RobosuiteVectorEnv(
        config.task,
        num_envs,
        normalization,
        engine=config.env.engine,
        num_threads=config.env.num_threads,
    )


def make_camera(
    config: ConfigDict, normalization: Normalization, size: int
) -> "RobosuiteCamera":
    """Returns what draws episodes of `config.task`; loads OpenGL."""
    from dynvgd_jax.envs.robosuite.render import RobosuiteCamera

    return RobosuiteCamera(config, normalization, size)
