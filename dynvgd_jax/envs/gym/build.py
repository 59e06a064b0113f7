"""Makes one of gymnasium's environments, or says in one line why it cannot."""

from types import ModuleType
from typing import Any

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.envs.base import EnvSizes
from dynvgd_jax.envs.gym.tasks import CHUNK_LEN, env_id


def load_gymnasium() -> ModuleType:
    """Returns the package; UserError where it is not installed."""
    try:
        import gymnasium
    except ImportError as error:
        raise UserError(
            f"gymnasium cannot be imported ({error}), expected it for this task; run: "
            "pip install gymnasium imageio"
        ) from error
    return gymnasium


def build_env(task: str, **options: Any) -> Any:
    """Returns the environment of a task, as gymnasium registers it.

    Args:
      task: one of `tasks.IDS`, or `gym:` and an id.
      options: of `gymnasium.make`, such as `render_mode`.

    Raises:
      UserError: gymnasium has no such environment or lacks what it needs, its spaces
        are not Boxes of one axis, or it has no time limit.
    """
    gymnasium = load_gymnasium()
    name = env_id(task)
    known = (gymnasium.error.Error, ImportError)
    try:
        env = gymnasium.make(name, disable_env_checker=True, **options)
    except known as error:
        raise UserError(
            f"gymnasium cannot make {name!r} for task {task!r}: {error}"
        ) from error
    for what in ("observation", "action"):
        space = getattr(env, f"{what}_space")
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise UserError(
                f"task {task!r}: found the {what} space {space}, expected a Box of one "
                "axis"
            )
    if not env.spec.max_episode_steps:
        raise UserError(f"task {task!r}: {name} has no time limit, expected one")
    return env


def sizes_of(env: Any) -> EnvSizes:
    """Returns the sizes of an environment of `build_env`."""
    return EnvSizes(
        obs_dim=env.observation_space.shape[0],
        action_dim=env.action_space.shape[0],
        chunk_len=CHUNK_LEN,
        max_episode_env_steps=env.spec.max_episode_steps,
    )
