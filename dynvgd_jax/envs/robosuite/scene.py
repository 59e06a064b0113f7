"""Collects, for one robosuite environment, all that the compiled step reads."""

from typing import Any

import numpy as np

from dynvgd_jax.envs.robosuite.libmujoco import contact_geoms_view, scalar_views
from dynvgd_jax.envs.robosuite.readout import TASK_CODES
from dynvgd_jax.envs.robosuite.tasks import Task

# Arrays of mjData and mjModel that the compiled step reaches by address. MuJoCo
# allocates them once per simulator and never moves them.
DATA_ARRAYS = (
    *("qpos", "qvel", "ctrl", "qfrc_bias", "qM"),
    *("xpos", "xquat", "xmat", "xanchor", "xaxis"),
    *("geom_xpos", "geom_xmat", "site_xpos", "site_xmat"),
)
MODEL_ARRAYS = ("dof_Madr", "dof_parentid")

# One record instead of many arrays: numba compiles it several times faster. Two arms
# at most; entries of a missing second arm are zero.
SCENE = np.dtype(
    [
        ("task_code", np.int64),
        ("num_arms", np.int64),
        ("nq", np.int64),
        ("nv", np.int64),
        ("limits", np.float64, 6),  # numbers of the success test
        ("object_bodies", np.int64, 2),  # task object; second object or peg
        ("geoms", np.int64, 3),  # what Transport observes: lid, target bin, trash bin
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
        ("geom_groups", np.int64),  # address of [ngeom] int32 bit masks, see below
    ]
)
# bits of geom_groups: Transport is solved when a geom of 1 touches one of 2 and one
# of 4 touches one of 8
TARGET_BIN, PAYLOAD, TRASH_BIN, TRASH = 1, 2, 4, 8


def make_scene(env: Any, task: Task) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns the record [1] of dtype SCENE, and arrays to keep alive beside it.

    For Transport it resets the simulator's data. Errors: RuntimeError where MuJoCo's
    memory is laid out differently or the controller is not robosuite's default OSC.
    """
    model, data = env.sim.model._model, env.sim.data._data
    scene = np.zeros(1, SCENE)
    if task.name == "transport":
        contact_geoms = contact_geoms_view(model, data)
        scene["contact_geoms"] = contact_geoms.ctypes.data
        scene["contact_stride"] = contact_geoms.strides[0] // 4
    ncon, time = scalar_views(data)
    groups = np.zeros(model.ngeom, np.int32)
    scene["task_code"] = TASK_CODES[task.name]
    scene["num_arms"] = task.num_arms
    scene["nq"], scene["nv"] = model.nq, model.nv
    _fill_task(env, task, scene[0], groups)
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


def _fill_task(env, task, scene, groups) -> None:
    """Writes the ids and numbers of the task's observation and success test."""
    limits, bodies = scene["limits"], scene["object_bodies"]
    if task.name == "lift":
        bodies[0] = env.cube_body_id
        limits[0] = env.model.mujoco_arena.table_offset[2] + 0.04
    elif task.name == "can":
        bodies[0] = env.obj_body_id["Can"]
        # the can's quarter of the bin lies above the bin's centre in x and y
        low, size = env.bin2_pos, env.bin_size
        for axis in range(2):
            limits[2 * axis] = low[axis]
            limits[2 * axis + 1] = low[axis] + size[axis] / 2
        limits[4:] = low[2], low[2] + 0.1
    elif task.name == "square":
        bodies[:] = env.obj_body_id["SquareNut"], env.peg1_body_id
        limits[:2] = 0.03, env.table_offset[2] + 0.05
    else:
        parts = env.transport
        bodies[:] = parts.payload_body_id, parts.trash_body_id
        scene["geoms"][:] = (
            parts.lid_handle_geom_ids[0],
            parts.target_bin_base_geom_ids[0],
            parts.trash_bin_base_geom_ids[0],
        )
        for bit, ids in (
            (TARGET_BIN, parts.target_bin_base_geom_ids),
            (PAYLOAD, parts.payload_geom_ids),
            (TRASH_BIN, parts.trash_bin_base_geom_ids),
            (TRASH, parts.trash_geom_ids),
        ):
            groups[ids] |= bit
