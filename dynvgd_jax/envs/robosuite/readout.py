"""Observation and success of each task, compiled, as robosuite computes them.

Each function reads MuJoCo's arrays through a record of dtype `scene.SCENE`. Rotations
and quaternions pass through robosuite's own float32 conversions.
"""

import math

import numpy as np
from numba import njit

from dynvgd_jax.envs.robosuite.libmujoco import (
    doubles,
    integers,
    matrices,
    quaternions,
    vectors,
)
from dynvgd_jax.envs.robosuite.tasks import import_robosuite

_transforms = import_robosuite().utils.transform_utils
mat2quat, quat2mat = _transforms.mat2quat, _transforms.quat2mat

LIFT, CAN, SQUARE, TRANSPORT = 0, 1, 2, 3
TASK_CODES = {"lift": LIFT, "can": CAN, "square": SQUARE, "transport": TRANSPORT}


@njit(nogil=True, error_model="numpy")
def _touching(scene, first, second):
    """Whether a geom with the bit `first` touches one with the bit `second`."""
    geoms, groups = integers(scene.contact_geoms), integers(scene.geom_groups)
    for i in range(integers(scene.ncon)[0]):
        a = groups[geoms[i * scene.contact_stride]]
        b = groups[geoms[i * scene.contact_stride + 1]]
        if (a & first and b & second) or (b & first and a & second):
            return True
    return False


@njit(nogil=True, error_model="numpy")
def is_success(scene):
    """Returns robosuite's `_check_success` of the task."""
    code = scene.task_code
    if code == TRANSPORT:
        return _touching(scene, 1, 2) and _touching(scene, 4, 8)
    xpos, p = vectors(scene.xpos), scene.limits
    body = scene.object_bodies[0]
    x, y, z = xpos[body, 0], xpos[body, 1], xpos[body, 2]
    if code == LIFT:
        return z > p[0]
    sites, site = vectors(scene.site_xpos), scene.grip_sites[0]
    distance = math.sqrt(
        (sites[site, 0] - x) ** 2
        + (sites[site, 1] - y) ** 2
        + (sites[site, 2] - z) ** 2
    )
    if 1.0 - math.tanh(10.0 * distance) >= 0.6:  # the hand is still at the object
        return False
    if code == CAN:
        return p[0] < x < p[1] and p[2] < y < p[3] and p[4] < z < p[5]
    peg = scene.object_bodies[1]
    return abs(x - xpos[peg, 0]) < p[0] and abs(y - xpos[peg, 1]) < p[0] and z < p[1]


@njit(nogil=True, error_model="numpy")
def _put_vector(out, start, vector):
    for i in range(3):
        out[start + i] = vector[i]


@njit(nogil=True, error_model="numpy")
def _put_difference(out, start, a, b):
    for i in range(3):
        out[start + i] = a[i] - b[i]


@njit(nogil=True, error_model="numpy")
def _put_quat(out, start, quat):
    """Writes MuJoCo's (w, x, y, z) as robosuite's (x, y, z, w)."""
    for i in range(4):
        out[start + i] = quat[(i + 1) % 4]


@njit(nogil=True, error_model="numpy")
def _put_rotation(out, start, rotation):
    """Writes the quaternion (x, y, z, w) of a matrix [3, 3]."""
    quat = mat2quat(rotation)
    for i in range(4):
        out[start + i] = quat[i]


@njit(nogil=True, error_model="numpy")
def _put_pose_in_hand(out, start, hand, thing):
    """Writes a thing's position and quaternion in the hand's frame.

    hand, thing: where in `out` their position and quaternion begin. As robosuite:
    both poses are rounded to float32 before they are combined.
    """
    hand_rot = quat2mat(out[hand + 3 : hand + 7].copy()).astype(np.float32)
    rot = quat2mat(out[thing + 3 : thing + 7].copy()).astype(np.float32)
    relative = np.zeros((3, 3))
    for i in range(3):
        place, origin = 0.0, 0.0
        for k in range(3):
            turn = np.float64(hand_rot[k, i])
            place += turn * np.float64(np.float32(out[thing + k]))
            origin += turn * np.float64(np.float32(out[hand + k]))
            for j in range(3):
                relative[i, j] += turn * np.float64(rot[k, j])
        out[start + i] = place - origin
    _put_rotation(out, start + 3, relative)


@njit(nogil=True, error_model="numpy")
def _put_transport(scene, out, start):
    """Writes TwoArmTransport's object-state (41 values) at `start`."""
    xpos, xmat = vectors(scene.xpos), matrices(scene.xmat)
    geom_xpos, geom_xmat = vectors(scene.geom_xpos), matrices(scene.geom_xmat)
    payload, trash, lid = start, start + 7, start + 14
    for i in range(2):
        body = scene.object_bodies[i]
        _put_vector(out, start + 7 * i, xpos[body])
        _put_rotation(out, start + 7 * i + 3, xmat[body])
    _put_vector(out, lid, geom_xpos[scene.geoms[0]])
    _put_rotation(out, lid + 3, geom_xmat[scene.geoms[0]])
    _put_vector(out, start + 21, geom_xpos[scene.geoms[1]])
    _put_vector(out, start + 24, geom_xpos[scene.geoms[2]])
    _put_difference(out, start + 27, out[payload:], out)
    _put_difference(out, start + 30, out[lid:], out)
    _put_difference(out, start + 33, out[payload:], out[9:])
    _put_difference(out, start + 36, out[trash:], out[9:])
    out[start + 39] = 1.0 if _touching(scene, 1, 2) else 0.0
    out[start + 40] = 1.0 if _touching(scene, 4, 8) else 0.0


@njit(nogil=True, error_model="numpy")
def observe(scene, out):
    """Writes the raw observation [Do] in DPPO's order."""
    xpos, xquat = vectors(scene.xpos), quaternions(scene.xquat)
    sites, qpos = vectors(scene.site_xpos), doubles(scene.qpos)
    start = 0
    for arm in range(scene.num_arms):
        _put_vector(out, start, sites[scene.grip_sites[arm]])
        _put_quat(out, start + 3, xquat[scene.hand_bodies[arm]])
        for i in range(2):
            out[start + 7 + i] = qpos[scene.finger_qpos[arm, i]]
        start += 9
    if scene.task_code == TRANSPORT:
        _put_transport(scene, out, start)
        return
    body = scene.object_bodies[0]
    _put_vector(out, start, xpos[body])
    _put_quat(out, start + 3, xquat[body])
    if scene.task_code == LIFT:
        _put_difference(out, start + 7, out, out[start:])
    else:
        _put_pose_in_hand(out, start + 7, 0, start)
