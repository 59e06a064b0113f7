"""What a simulator offers the loops, and which simulator has which task."""

import difflib
import importlib
import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np
from ml_collections import ConfigDict

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import Rule, check_choice, check_fields
from dynvgd_jax.core.normalize import Normalization
from dynvgd_jax.core.types import ChunkResult

# Name -> module with `task_names()`, `make_env(config, normalization, num_envs)`,
# `make_camera(config, normalization, size)`, `sizes(task)` and `FIELDS`, the rules of
# what it reads of `config.env`.
# Importing the module must be cheap: the simulator itself belongs inside `make_env`.
# A task SIMULATOR:NAME is that simulator's own affair, which refuses what it has not. A
# task MODULE:NAME is NAME of a simulator outside the package: of a Python module with
# the same functions, of which `make_camera` and `sizes` may be missing (docs/own.md).
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


_MODULE_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_NEEDED = ("task_names", "make_env")  # functions of every simulator
# What a module of a user's can raise while it is imported.
_BROKEN = (SyntaxError, LookupError, AttributeError, NameError, TypeError, ValueError)
_BROKEN += (OSError, RuntimeError, AssertionError, ArithmeticError, SystemExit)


def own_simulator(task: str) -> ModuleType | None:
    """Returns the module of a task MODULE:NAME; None for other tasks.

    Raises:
      UserError: the module is not found, fails, or is no simulator.
    """
    name, colon, _ = str(task).rpartition(":")
    if not colon or _named_simulator(task) is not None:
        return None
    if not _MODULE_NAME.fullmatch(name):
        raise UserError(
            f"config.task: found {task!r}, expected a task, or MODULE:NAME with a "
            "Python module of your own such as my_folder.my_simulator"
        )
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"config.task: cannot import the module of {task!r}: {error}; set "
            "PYTHONPATH to its folder (`python -m dynvgd_jax.launch`, started there, "
            "needs none)"
        ) from error
    except _BROKEN as error:
        problem = f"{type(error).__name__}: {error}"
        raise UserError(f"config.task: the module {name} fails: {problem}") from error
    missing = [part for part in _NEEDED if not callable(getattr(module, part, None))]
    if not isinstance(getattr(module, "FIELDS", None), Mapping):
        missing.append("FIELDS")
    if missing:
        raise UserError(
            f"config.task: the module {name} has no {', '.join(missing)}, expected "
            "those of a simulator, two functions and a dictionary: docs/own.md"
        )
    return module


def check_task(field: str, task: str) -> None:
    """The rule of a task: a known one, SIMULATOR:NAME, or a user's MODULE:NAME."""
    own = own_simulator(task)
    if own is not None:
        check_choice(field, task.rpartition(":")[2], own.task_names())
    elif _named_simulator(task) is None:
        check_choice(field, task, task_names())


def _module(simulator: str) -> ModuleType:
    return importlib.import_module(SIMULATORS[simulator])


def task_names() -> tuple[str, ...]:
    """Returns the tasks of all simulators; imports none of them."""
    return tuple(name for sim in SIMULATORS for name in _module(sim).task_names())


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
    return _module_of(config).make_env(config, normalization, num_envs)


def task_sizes(task: str) -> EnvSizes | None:
    """Returns a task's sizes; None where only its environments tell.

    That is of tasks SIMULATOR:NAME, and of simulators outside the package.
    """
    if task not in task_names():
        return None
    return _inside(task).sizes(task)


def require_saving(env: VectorEnv) -> None:
    """Raises UserError where the environments are no `SavesState`."""
    missing = [part for part in ("get_state", "set_state") if not hasattr(env, part)]
    if missing:
        raise UserError(
            f"config.task: its environments have no {' and no '.join(missing)}, which "
            "checkpoints and audits need: docs/own.md"
        )


def make_camera(config: ConfigDict, normalization: Normalization, size: int) -> Camera:
    """Returns what draws episodes of `config.task`; arguments as `make_env`'s.

    Args:
      config: as of the episodes.
      normalization: scale of their actions.
      size: pixels of a picture's side.

    Raises:
      UserError: as `make_env`, or nothing here can draw.
    """
    module = _module_of(config)
    if not can_draw(config):
        raise UserError(
            f"found no make_camera in {module.__name__}, expected it for videos; leave "
            "them out"
        )
    return module.make_camera(config, normalization, size)


def can_draw(config: ConfigDict) -> bool:
    """Whether `config.task`'s simulator has a camera at all."""
    return hasattr(_module_of(config), "make_camera")


def _module_of(config: ConfigDict) -> ModuleType:
    task, own = config.task, own_simulator(config.task)
    if own is not None:
        check_task("task", task)
        check_fields(config, own.FIELDS)
        return own
    return _inside(task)


def _inside(task: str) -> ModuleType:
    """The package's simulator that has the task."""
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
        f"(did you mean {near!r}?); one of your own is MODULE:NAME"
    )
