"""What robosuite's environments are built with, as plain values; imports no simulator.

Written out: an edited file of the installation, which is where one changes the
controller there, decides nothing. Demonstrations carry the same words.
"""

import copy
from typing import Any

from dynvgd_jax.envs.robosuite.task import Task

ROBOT = "Panda"
CONTROL_FREQ_HZ = 20
_POS_M, _ROT_RAD = 0.05, 0.5  # of a full action
# robosuite 1.4.1's OSC_POSE
CONTROLLER = {
    "type": "OSC_POSE",
    "input_max": 1,
    "input_min": -1,
    "output_max": [_POS_M] * 3 + [_ROT_RAD] * 3,
    "output_min": [-_POS_M] * 3 + [-_ROT_RAD] * 3,
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


def env_kwargs(task: Task) -> dict[str, Any]:
    """Returns arguments of `robosuite.make` for a task, beside its name.

    They decide what an environment does; the caller owns them, as robosuite changes
    what it is given.
    """
    options = {"env_configuration": "single-arm-opposed"} if task.num_arms == 2 else {}
    return {
        "robots": [ROBOT] * task.num_arms,
        "controller_configs": copy.deepcopy(CONTROLLER),
        "control_freq": CONTROL_FREQ_HZ,
        "reward_shaping": False,
        "ignore_done": True,
        "use_object_obs": True,
        "use_camera_obs": False,
        "has_renderer": False,
        "has_offscreen_renderer": False,
        **options,
    }
