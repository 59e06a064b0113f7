"""The four robosuite tasks: names, sizes, and how their simulators are built."""

import ctypes.util
import difflib
import logging
import os
import sys
import types
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np

from dynvgd_jax.core.errors import UserError

_MODEL_SEED = 0  # sizes that robosuite draws while it builds a scene (Lift's cube)
_ARM_KEYS = ("eef_pos", "eef_quat", "gripper_qpos")


class Task(NamedTuple):
    """What is fixed about one task (robosuite 1.4.1, DPPO's choices)."""

    name: str  # name in configurations
    env_name: str  # robosuite's name
    num_arms: int  # Panda arms
    obs_keys: tuple[str, ...]  # robosuite observables, concatenated in this order
    obs_dim: int  # Do
    action_dim: int  # Da, 7 per arm: 3 position, 3 rotation, 1 gripper
    chunk_len: int  # Ta, control steps per action chunk
    max_episode_env_steps: int  # control steps until the time limit
    unused_objects: tuple[str, ...]  # robosuite keeps them 14 m away


def _task(name, env_name, num_arms, obs_dim, chunk_len, max_steps, unused=()):
    keys = tuple(f"robot{i}_{key}" for i in range(num_arms) for key in _ARM_KEYS)
    return Task(
        name=name,
        env_name=env_name,
        num_arms=num_arms,
        obs_keys=(*keys, "object-state"),
        obs_dim=obs_dim,
        action_dim=7 * num_arms,
        chunk_len=chunk_len,
        max_episode_env_steps=max_steps,
        unused_objects=unused,
    )


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _task("lift", "Lift", 1, 19, 4, 300),
        _task("can", "PickPlaceCan", 1, 23, 4, 300, ("Milk", "Bread", "Cereal")),
        _task("square", "NutAssemblySquare", 1, 23, 4, 400, ("RoundNut",)),
        _task("transport", "TwoArmTransport", 2, 59, 8, 800),
    )
}


def get_task(name: str) -> Task:
    """Returns the named task; UserError names the nearest one otherwise."""
    if name in TASKS:
        return TASKS[name]
    near = difflib.get_close_matches(str(name).lower(), TASKS, n=1, cutoff=0.0)[0]
    raise UserError(
        f"unknown task {name!r}; the tasks are {', '.join(TASKS)} "
        f"(did you mean {near!r}?)"
    )


def check_versions() -> None:
    """Raises UserError unless robosuite 1.4.x and mujoco < 3.10 are installed.

    robosuite 1.5 orders the observation differently; mujoco 3.10 removed functions
    that robosuite 1.4.1 calls.
    """
    expected = {"robosuite": "1.4.1", "mujoco": "3.3.7"}
    for package, pin in expected.items():
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError as error:
            raise UserError(
                f"{package} is not installed; run: pip install {package}=={pin}"
            ) from error
        major, minor = (int(part) for part in version.split(".")[:2])
        low, high = ((1, 4), (1, 5)) if package == "robosuite" else ((3, 0), (3, 10))
        if not low <= (major, minor) < high:
            raise UserError(
                f"{package} {version} is installed, expected {pin}; run: "
                f"pip install {package}=={pin}"
            )


def import_robosuite() -> Any:
    """Imports robosuite without its notices, and without a graphics library if none.

    robosuite loads EGL on import although nothing here draws; a machine without
    libEGL gets an empty stand-in for that one module.
    """
    # robosuite announces its missing private macros on import, once per process
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
    context = "robosuite.renderers.context.egl_context"
    wants_egl = os.environ.get("MUJOCO_GL") not in ("osmesa", "glx")
    if wants_egl and ctypes.util.find_library("EGL") is None:
        sys.modules.setdefault(context, types.ModuleType(context)).EGLGLContext = None
    import robosuite

    return robosuite


def make_env(task: Task) -> Any:
    """Builds the task's robosuite environment: Panda, OSC_POSE, 20 Hz, no cameras.

    Every call builds the same scene: sizes that robosuite draws at random while
    building (Lift's cube) come from a fixed seed, and resets are soft, so they stay.
    NumPy's global generator is left as it was. Errors: UserError on wrong versions.
    """
    check_versions()
    robosuite = import_robosuite()

    options = {"env_configuration": "single-arm-opposed"} if task.num_arms == 2 else {}
    random_state = np.random.get_state()
    np.random.seed(_MODEL_SEED)
    try:
        return robosuite.make(
            task.env_name,
            robots=["Panda"] * task.num_arms,
            controller_configs=robosuite.load_controller_config(
                default_controller="OSC_POSE"
            ),
            control_freq=20,
            ignore_done=True,
            reward_shaping=False,
            has_renderer=False,
            has_offscreen_renderer=False,
            use_camera_obs=False,
            hard_reset=False,
            **options,
        )
    finally:
        np.random.set_state(random_state)


def reset_env(env: Any, seed: int) -> dict[str, np.ndarray]:
    """Starts the episode that belongs to `seed`; returns robosuite's observation.

    robosuite draws object poses and joint noise from NumPy's global generator, which
    is seeded for the reset and then put back.
    """
    random_state = np.random.get_state()
    np.random.seed(seed)
    try:
        return env.reset()
    finally:
        np.random.set_state(random_state)


def observe(task: Task, obs_dict: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the raw observation [Do] float64 in DPPO's order."""
    obs = np.concatenate([np.ravel(obs_dict[key]) for key in task.obs_keys])
    if obs.shape != (task.obs_dim,):
        raise ValueError(
            f"{task.name}: observation of size {obs.shape}, expected {task.obs_dim}"
        )
    return obs.astype(np.float64)
