"""Collects, for one robosuite environment, all that the compiled step reads."""

from typing import Any

import numpy as np

from dynvgd_jax.envs.robosuite.libmujoco import contact_geoms_view, scalar_views
from dynvgd_jax.envs.robosuite.task import ARM_OBS_DIM, READING_SIZES, Parts, Task

# Arrays of mjData and mjModel that the compiled step reaches by address. MuJoCo
# allocates them once per simulator and never moves them.
DATA_ARRAYS = (
    *("qpos", "qvel", "ctrl", "qfrc_bias", "qM"),
    *("xpos", "xquat", "xmat", "xanchor", "xaxis"),
    *("geom_xpos", "geom_xmat", "site_xpos", "site_xmat"),
)
MODEL_ARRAYS = ("dof_Madr", "dof_parentid")

MOST_READINGS, MOST_CONDITIONS = 16, 4  # of a task; the record has room for these

# One record instead of many arrays: numba compiles it several times faster. Two arms
# at most; entries of a missing second arm are zero.
SCENE = np.dtype(
    [
        ("num_arms", np.int64),
        ("nq", np.int64),
        ("nv", np.int64),
        ("num_readings", np.int64),
        ("readings", np.int64, (MOST_READINGS, 3)),  # kind, first, second: see `task`
        ("num_conditions", np.int64),
        ("conditions", np.int64, (MOST_CONDITIONS, 3)),
        ("limits", np.float64, (MOST_CONDITIONS, 6)),  # of the conditions
        ("grip_sites", np.int64, 2),  # between the fingers
        ("hand_bodies", np.int64, 2),
        ("first_joint", np.int64, 2),  # the arm's seven are consecutive, as are
        ("first_qpos", np.int64, 2),  # their addresses in qpos
        ("first_dof", np.int64, 2),  # and in qvel
        ("arm_actuators", np.int64, (2, 7)),
        ("finger_qpos", np.int64, (2, 2)),  # addresses
        ("finger_actuators", np.int64, (2, 2)),
        ("torque_low", np.float64, (2, 7)),  # Nm
        ("torque_high", np.float64, (2, 7)),
        ("finger_middle", np.float64, (2, 2)),  # of the command's range
        ("finger_half", np.float64, (2, 2)),
        ("stiffness", np.float64, (2, 6)),
        ("damping", np.float64, (2, 6)),
        ("scale", np.float64, (2, 6)),  # m and rad per unit action
        *[(name, np.int64) for name in DATA_ARRAYS + MODEL_ARRAYS],  # addresses
        ("ncon", np.int64),  # address of the number of contacts, int32
        ("time", np.int64),  # address of the time in s, float64
        ("warnings", np.int64),  # address of eight (last info, count) pairs, int32
        ("contact_geoms", np.int64),  # address of the first contact's geom pair, int32
        ("contact_stride", np.int64),  # int32 entries from one contact to the next
        # address of [ngeom] int32: bit g is set where the geom is in contact group g
        ("geom_groups", np.int64),
    ]
)


def make_scene(env: Any, task: Task) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns the record [1] of dtype SCENE, and arrays to keep alive beside it.

    Where the task asks for contacts it resets the simulator's data. Raises:
    RuntimeError where MuJoCo's memory is laid out differently or the controller is not
    robosuite's default OSC; ValueError where the task's file contradicts itself.
    """
    model, data = env.sim.model._model, env.sim.data._data
    scene, parts = np.zeros(1, SCENE), task.parts(env)
    if parts.contact_groups:
        contact_geoms = contact_geoms_view(model, data)
        scene["contact_geoms"] = contact_geoms.ctypes.data
        scene["contact_stride"] = contact_geoms.strides[0] // 4
    ncon, time = scalar_views(data)
    groups = np.zeros(model.ngeom, np.int32)
    scene["num_arms"] = task.num_arms
    scene["nq"], scene["nv"] = model.nq, model.nv
    _fill_parts(task, parts, scene[0], groups)
    for arm, robot in enumerate(env.robots):
        _fill_arm(env, robot, arm, scene[0])
    arrays = {name: getattr(data, name) for name in DATA_ARRAYS}
    arrays |= {name: getattr(model, name) for name in MODEL_ARRAYS}
    arrays |= {"ncon": ncon, "time": time, "geom_groups": groups}
    for name, array in arrays.items():
        if not array.flags.c_contiguous:
            raise RuntimeError(f"MuJoCo's {name} is not contiguous")
        scene[name] = array.ctypes.data
    counts = data.warning.number
    if counts.strides != (8,):
        raise RuntimeError("MuJoCo's warning counters are laid out differently")
    scene["warnings"] = counts.ctypes.data - 4
    return scene, [*arrays.values(), counts]


def _fill_arm(env, robot, arm, scene) -> None:
    """Writes the indices and constants of one arm and its gripper."""
    control = robot.controller
    if (
        not (control.uncoupling and control.use_delta and control.use_ori)
        or control.impedance_mode != "fixed"
        or control.interpolator_pos is not None
        or control.interpolator_ori is not None
        or control.position_limits is not None
        or control.orientation_limits is not None
    ):
        raise RuntimeError("the compiled step knows robosuite's default OSC only")
    ranges = env.sim.model.actuator_ctrlrange
    arm_actuators = np.array(robot._ref_joint_actuator_indexes)
    finger_actuators = np.array(robot._ref_joint_gripper_actuator_indexes)
    low, high = ranges[finger_actuators].T
    firsts = {}
    for name, rows in (
        ("first_joint", robot._ref_joint_indexes),
        ("first_qpos", robot._ref_joint_pos_indexes),
        ("first_dof", robot._ref_joint_vel_indexes),
    ):
        firsts[name] = int(rows[0])
        if not np.array_equal(rows, np.arange(7) + rows[0]):
            raise RuntimeError("the arm's joints are not in one row")
    values = {
        **firsts,
        "grip_sites": robot.eef_site_id,
        "hand_bodies": env.sim.model.body_name2id(robot.robot_model.eef_name),
        "arm_actuators": arm_actuators,
        "finger_qpos": robot._ref_gripper_joint_pos_indexes,
        "finger_actuators": finger_actuators,
        "torque_low": ranges[arm_actuators, 0],
        "torque_high": ranges[arm_actuators, 1],
        "finger_middle": 0.5 * (high + low),
        "finger_half": 0.5 * (high - low),
        "stiffness": control.kp,
        "damping": control.kd,
        "scale": control.output_max,
    }
    for name, value in values.items():
        scene[name][arm] = value


def _fill_parts(task: Task, parts: Parts, scene, groups) -> None:
    """Writes what observation and success test are made of."""
    size = task.num_arms * ARM_OBS_DIM
    size += sum(READING_SIZES[reading.kind] for reading in parts.readings)
    counts = len(parts.readings), len(parts.conditions), len(parts.contact_groups)
    if size != task.obs_dim:
        raise ValueError(f"{task.name}: readings of size {size}, not {task.obs_dim}")
    if counts[0] > MOST_READINGS or counts[1] > MOST_CONDITIONS or counts[2] > 31:
        raise ValueError(f"{task.name}: {counts} parts are more than scene.py holds")
    scene["num_readings"], scene["num_conditions"] = counts[:2]
    for i, reading in enumerate(parts.readings):
        scene["readings"][i] = reading
    for i, condition in enumerate(parts.conditions):
        scene["conditions"][i] = condition[:3]
        scene["limits"][i, : len(condition.limits)] = condition.limits
    for number, ids in enumerate(parts.contact_groups):
        groups[ids] |= 1 << number
