"""What a simulator offers the loops, and which simulator has which task."""

import difflib
import importlib
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np
from ml_collections import ConfigDict

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import Rule, check_choice
from dynvgd_jax.core.normalize import Normalization
from dynvgd_jax.core.types import ChunkResult

# Name -> module with `task_names()`, `make_env(config, normalization, num_envs)`,
# `make_camera(config, normalization, size)`, `sizes(task)` and `FIELDS`, the rules of
# what it reads of `config.env`.
# Importing the module must be cheap: the simulator itself belongs inside `make_env`.
# A task SIMULATOR:NAME is that simulator's own affair, which refuses what it has not.
SIMULATORS = {
    "robosuite": "dynvgd_jax.envs.robosuite",
    "gym": "dynvgd_jax.envs.gym",
}


class EnvSizes(NamedTuple):
    """The sizes of a task."""

    obs_dim: int  # Do
    action_dim: int  # Da
    chunk_len: int  # Ta, control steps per action chunk
    max_episode_env_steps: int  # control steps until the time limit


class VectorEnv(Protocol):
    """Several environments stepped by action chunks; never resets by itself.

    An episode depends on its seed and its actions only, wherever it is played.
    """

    num_envs: int
    sizes: EnvSizes

    def reset(self, indices: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Starts an episode in each named environment; returns obs `[n, Do]`."""

    def step(self, indices: np.ndarray, actions: np.ndarray) -> ChunkResult:
        """Runs `actions [n, Ta, Da]` (normalised) in the named environments."""

    def step_async(self, indices: np.ndarray, actions: np.ndarray) -> None:
        """Starts a step in the background."""

    def step_wait(self) -> ChunkResult:
        """Returns the result of the oldest step that `step_async` started."""

    def close(self) -> None:
        """Ends the threads and frees the simulators."""


class SavesState(Protocol):
    """Environments that a run can leave and take up again, or branch off."""

    def get_state(self) -> dict[str, np.ndarray]:
        """Returns all hidden state; every leading axis is `num_envs`."""

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Continues from a `get_state` exactly."""


class Replay(NamedTuple):
    """An episode played again."""

    poses: list[Any]  # T + 1, for `Camera.draw`: at the reset, after each control step
    success: np.ndarray  # [T] bool, of each control step


class Camera(Protocol):
    """Plays episodes again and draws them, apart from whatever steps environments."""

    def replay(self, seed: int, chunks: np.ndarray) -> Replay:
        """Runs `chunks [C, Ta, Da]` (normalised) from the reset with `seed`.

        Steps as a `VectorEnv` did, bit for bit; ends early where the physics broke.
        """

    def draw(self, pose: Any) -> np.ndarray:
        """Returns `[size, size, 3]` uint8."""

    def close(self) -> None:
        """Frees simulator and graphics."""


def _module(simulator: str) -> ModuleType:
    return importlib.import_module(SIMULATORS[simulator])


def task_names() -> tuple[str, ...]:
    """Returns the tasks of all simulators; imports none of them."""
    return tuple(name for sim in SIMULATORS for name in _module(sim).task_names())


def check_task(field: str, task: str) -> None:
    """The rule of a task: a simulator's, or SIMULATOR:NAME."""
    if _named_simulator(task) is None:
        check_choice(field, task, task_names())


def _named_simulator(task: str) -> str | None:
    simulator, _, name = str(task).partition(":")
    return simulator if name and simulator in SIMULATORS else None


def field_rules() -> dict[str, Rule]:
    """Returns the rules of `task` and of what the simulators read of `env`."""
    rules = {"task": check_task}
    for simulator in SIMULATORS:
        rules |= _module(simulator).FIELDS
    return rules


def make_env(
    config: ConfigDict, normalization: Normalization | None, num_envs: int
) -> VectorEnv:
    """Returns `num_envs` environments of `config.task` on the simulator that has it.

    Args:
      config: `task`, and `env` with what the simulator wants to know.
      normalization: scale of observations and actions; None leaves them raw.
      num_envs: how many.

    Raises:
      UserError: no simulator has the task, or the simulator refuses.
    """
    return _module_of(config.task).make_env(config, normalization, num_envs)


def task_sizes(task: str) -> EnvSizes:
    """Returns the sizes of one of `task_names`; imports no simulator."""
    return _module_of(task).sizes(task)


def make_camera(config: ConfigDict, normalization: Normalization, size: int) -> Camera:
    """Returns what draws episodes of `config.task`; arguments as `make_env`'s.

    Args:
      config: as of the episodes.
      normalization: scale of their actions.
      size: pixels of a picture's side.

    Raises:
      UserError: as `make_env`, or nothing here can draw.
    """
    return _module_of(config.task).make_camera(config, normalization, size)


def _module_of(task: str) -> ModuleType:
    named = _named_simulator(task)
    if named is not None:
        return _module(named)
    for simulator in SIMULATORS:
        if task in _module(simulator).task_names():
            return _module(simulator)
    raise unknown_task(task, task_names())


def unknown_task(name: str, known: tuple[str, ...]) -> UserError:
    """Returns the error for a task that does not exist; it names the nearest one."""
    near = difflib.get_close_matches(str(name).lower(), known, n=1, cutoff=0.0)[0]
    return UserError(
        f"unknown task {name!r}; the tasks are {', '.join(known)} "
        f"(did you mean {near!r}?)"
    )
