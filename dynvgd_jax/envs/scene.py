"""Collects, for one robosuite environment, all that the compiled step reads."""

from typing import Any, NamedTuple

import numpy as np

from dynvgd_jax.envs.libmujoco import contact_geoms_view, scalar_views
from dynvgd_jax.envs.readout import TASK_CODES
from dynvgd_jax.envs.tasks import Task


class Scene(NamedTuple):
    """Views of MuJoCo's arrays and fixed indices; A arms. Views never move."""

    task_code: int
    limits: np.ndarray  # [6] float64, numbers of the success test
    object_bodies: np.ndarray  # [2] body ids: task object, second object or peg
    geoms: np.ndarray  # [3] geom ids that Transport observes
    geom_groups: np.ndarray  # [4, ngeom] bool, members of Transport's contact tests
    grip_sites: np.ndarray  # [A] site ids between the fingers
    hand_bodies: np.ndarray  # [A] body ids
    joints: np.ndarray  # [A, 7] joint ids
    arm_qpos: np.ndarray  # [A, 7] addresses
    arm_dofs: np.ndarray  # [A, 7] addresses
    arm_actuators: np.ndarray  # [A, 7]
    finger_qpos: np.ndarray  # [A, 2] addresses
    finger_actuators: np.ndarray  # [A, 2]
    torque_range: np.ndarray  # [A, 7, 2] Nm
    finger_range: np.ndarray  # [A, 2, 2] middle and half width of the command
    gains: np.ndarray  # [A, 2, 6] stiffness, damping
    scale: np.ndarray  # [A, 6] m and rad per unit action
    dof_madr: np.ndarray  # [nv] where a row of the inertia matrix starts in qM
    dof_parent: np.ndarray  # [nv]
    qpos: np.ndarray
    qvel: np.ndarray
    ctrl: np.ndarray
    qfrc_bias: np.ndarray
    qM: np.ndarray
    xpos: np.ndarray
    xquat: np.ndarray
    xmat: np.ndarray
    xanchor: np.ndarray
    xaxis: np.ndarray
    geom_xpos: np.ndarray
    geom_xmat: np.ndarray
    site_xpos: np.ndarray
    site_xmat: np.ndarray
    warnings: np.ndarray  # [8] int32, how often MuJoCo warned since the reset
    time: np.ndarray  # [1] float64, s
    ncon: np.ndarray  # [1] int32, contacts
    contact_geoms: np.ndarray  # [many, 2] int32, the first ncon rows are valid


def make_scene(env: Any, task: Task) -> Scene:
    """Returns the views of `env`; for Transport it resets the simulator's data.

    Errors: RuntimeError where MuJoCo's memory is laid out differently.
    """
    model, data = env.sim.model._model, env.sim.data._data
    if task.name == "transport":
        contact_geoms = contact_geoms_view(model, data)
    else:
        contact_geoms = np.zeros((8, 10), np.int32)[::2, 3:5]  # same layout, unused
    ncon, time = scalar_views(data)
    names = ("qpos", "qvel", "ctrl", "qfrc_bias", "qM", "xpos", "xquat", "xmat")
    names += ("xanchor", "xaxis", "geom_xpos", "geom_xmat", "site_xpos", "site_xmat")
    return Scene(
        task_code=TASK_CODES[task.name],
        **_task_fields(env, task),
        **_arm_fields(env),
        dof_madr=model.dof_Madr,
        dof_parent=model.dof_parentid,
        **{name: getattr(data, name) for name in names},
        warnings=data.warning.number,
        time=time,
        ncon=ncon,
        contact_geoms=contact_geoms,
    )


def _ids(rows) -> np.ndarray:
    return np.array([[int(i) for i in row] for row in rows], np.int64)


def _arm_fields(env) -> dict[str, np.ndarray]:
    """Returns the indices and constants of the arms and their grippers."""
    ranges = env.sim.model.actuator_ctrlrange
    robots = env.robots
    arm_actuators = _ids(r._ref_joint_actuator_indexes for r in robots)
    finger_actuators = _ids(r._ref_joint_gripper_actuator_indexes for r in robots)
    low, high = np.moveaxis(ranges[finger_actuators], -1, 0)
    name2id = env.sim.model.body_name2id
    for robot in robots:
        control = robot.controller
        if (
            not (control.uncoupling and control.use_delta and control.use_ori)
            or control.impedance_mode != "fixed"
            or control.interpolator_pos is not None
            or control.position_limits is not None
            or control.orientation_limits is not None
        ):
            raise RuntimeError("the compiled step knows robosuite's default OSC only")
    return {
        "grip_sites": np.array([r.eef_site_id for r in robots], np.int64),
        "hand_bodies": np.array([name2id(r.robot_model.eef_name) for r in robots]),
        "joints": _ids(r._ref_joint_indexes for r in robots),
        "arm_qpos": _ids(r._ref_joint_pos_indexes for r in robots),
        "arm_dofs": _ids(r._ref_joint_vel_indexes for r in robots),
        "arm_actuators": arm_actuators,
        "finger_qpos": _ids(r._ref_gripper_joint_pos_indexes for r in robots),
        "finger_actuators": finger_actuators,
        "torque_range": np.array(ranges[arm_actuators]),
        "finger_range": np.stack([0.5 * (high + low), 0.5 * (high - low)], -1),
        "gains": np.array([[r.controller.kp, r.controller.kd] for r in robots]),
        "scale": np.array([r.controller.output_max for r in robots], np.float64),
    }


def _task_fields(env, task) -> dict[str, np.ndarray]:
    """Returns the ids and numbers of the task's observation and success test."""
    limits, geoms = np.zeros(6), np.zeros(3, np.int64)
    groups = np.zeros((4, env.sim.model.ngeom), bool)
    if task.name == "lift":
        bodies = [env.cube_body_id, 0]
        limits[0] = env.model.mujoco_arena.table_offset[2] + 0.04
    elif task.name == "can":
        bodies = [env.obj_body_id["Can"], 0]
        # the bin's quarter of this object; the can's index has neither low half
        low, size = env.bin2_pos, env.bin_size
        limits[:] = (
            *(low[0], low[0] + size[0] / 2),
            *(low[1], low[1] + size[1] / 2),
            *(low[2], low[2] + 0.1),
        )
    elif task.name == "square":
        bodies = [env.obj_body_id["SquareNut"], env.peg1_body_id]
        limits[:2] = 0.03, env.table_offset[2] + 0.05
    else:
        parts = env.transport
        bodies = [parts.payload_body_id, parts.trash_body_id]
        members = (
            parts.target_bin_base_geom_ids,
            parts.payload_geom_ids,
            parts.trash_bin_base_geom_ids,
            parts.trash_geom_ids,
        )
        for group, ids in zip(groups, members):
            group[ids] = True
        geoms[:] = (parts.lid_handle_geom_ids[0], members[0][0], members[2][0])
    return {
        "limits": limits,
        "object_bodies": np.array(bodies, np.int64),
        "geoms": geoms,
        "geom_groups": groups,
    }
