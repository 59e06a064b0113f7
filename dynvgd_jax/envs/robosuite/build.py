"""Builds robosuite environments, starts their episodes and reads them."""

import sys
from typing import Any

import numpy as np

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.envs.robosuite.headless import robosuite
from dynvgd_jax.envs.robosuite.options import env_kwargs
from dynvgd_jax.envs.robosuite.task import Task

_MODEL_SEED = 0  # sizes that robosuite draws while it builds a scene (Lift's cube)
# Of robosuite's macros those that change what an environment does: the physics' step in
# s, and whether robosuite's arithmetic is compiled, as ours is.
_MACROS = {"SIMULATION_TIMESTEP": 0.002, "ENABLE_NUMBA": True}


def check_macros() -> None:
    """Raises UserError where robosuite's macros make other physics than the method's.

    Users change them in `macros_private.py` inside robosuite, for all programs.
    """
    private = sys.modules.get("robosuite.macros_private", robosuite.macros)
    for name, needed in _MACROS.items():
        found = getattr(robosuite.macros, name)
        if found != needed:
            raise UserError(
                f"robosuite's macro {name} is {found!r}, expected {needed!r}, for "
                f"which policies, engines and results are; change {private.__file__}"
            )


def build_env(task: Task) -> Any:
    """Builds the task's robosuite environment: Panda, OSC_POSE, 20 Hz, no cameras.

    Every call builds the same scene: sizes that robosuite draws at random while
    building (Lift's cube) come from a fixed seed, and resets are soft, so they stay.
    NumPy's global generator is left as it was.

    Raises:
      UserError: robosuite's macros would change the physics.
    """
    check_macros()
    random_state = np.random.get_state()
    np.random.seed(_MODEL_SEED)
    try:
        return robosuite.make(task.env_name, hard_reset=False, **env_kwargs(task))
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
