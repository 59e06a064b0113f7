"""Builds robosuite environments, starts their episodes and reads them."""

import copy
import sys
from typing import Any

import numpy as np

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.envs.robosuite.headless import robosuite
from dynvgd_jax.envs.robosuite.task import Task

_MODEL_SEED = 0  # sizes that robosuite draws while it builds a scene (Lift's cube)
# robosuite 1.4.1's OSC_POSE, written out: an edited file of the installation, which is
# where one changes it there, decides nothing.
_CONTROLLER = {
    "type": "OSC_POSE",
    "input_max": 1,
    "input_min": -1,
    "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5],
    "output_min": [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5],
    "kp": 150,
    "damping_ratio": 1,
    "impedance_mode": "fixed",
    "kp_limits": [0, 300],
    "damping_ratio_limits": [0, 10],
    "position_limits": None,
    "orientation_limits": None,
    "uncouple_pos_ori": True,
    "control_delta": True,
    "interpolation": None,
    "ramp_ratio": 0.2,
}
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
    options = {"env_configuration": "single-arm-opposed"} if task.num_arms == 2 else {}
    random_state = np.random.get_state()
    np.random.seed(_MODEL_SEED)
    try:
        return robosuite.make(
            task.env_name,
            robots=["Panda"] * task.num_arms,
            controller_configs=copy.deepcopy(_CONTROLLER),
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
