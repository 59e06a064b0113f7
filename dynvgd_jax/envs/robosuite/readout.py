"""Observation and success, compiled, as robosuite computes them.

Both are made of the parts that a task's file lists (`task.Parts`). Each function reads
MuJoCo's arrays through a record of dtype `scene.SCENE`. Rotations and quaternions pass
through robosuite's own float32 conversions.
"""

import math

import numpy as np
from numba import njit

from dynvgd_jax.envs.robosuite import task
from dynvgd_jax.envs.robosuite.headless import robosuite
from dynvgd_jax.envs.robosuite.libmujoco import (
    doubles,
    integers,
    matrices,
    quaternions,
    vectors,
)

_transforms = robosuite.utils.transform_utils
mat2quat, quat2mat = _transforms.mat2quat, _transforms.quat2mat


@njit(nogil=True, error_model="numpy")
def _touching(scene, first, second):
    """Whether a geom of contact group `first` touches one of group `second`."""
    first, second = 1 << first, 1 << second
    geoms, groups = integers(scene.contact_geoms), integers(scene.geom_groups)
    for i in range(integers(scene.ncon)[0]):
        a = groups[geoms[i * scene.contact_stride]]
        b = groups[geoms[i * scene.contact_stride + 1]]
        if (a & first and b & second) or (b & first and a & second):
            return True
    return False


@njit(nogil=True, error_model="numpy")
def _is_hand_away(scene, position):
    """Whether the first hand has left the object at `position` [3]."""
    sites, site = vectors(scene.site_xpos), scene.grip_sites[0]
    distance = math.sqrt(
        (sites[site, 0] - position[0]) ** 2
        + (sites[site, 1] - position[1]) ** 2
        + (sites[site, 2] - position[2]) ** 2
    )
    return not 1.0 - math.tanh(10.0 * distance) >= 0.6


@njit(nogil=True, error_model="numpy")
def _holds(scene, i):
    """Whether the task's i-th condition does."""
    kind, first = scene.conditions[i, 0], scene.conditions[i, 1]
    second = scene.conditions[i, 2]
    if kind == task.IN_CONTACT:
        return _touching(scene, first, second)
    xpos = vectors(scene.xpos)
    x, y, z = xpos[first, 0], xpos[first, 1], xpos[first, 2]
    if kind == task.HAND_AWAY:
        return _is_hand_away(scene, xpos[first])
    if kind == task.BESIDE:
        reach = scene.limits[i, 0]
        return abs(x - xpos[second, 0]) < reach and abs(y - xpos[second, 1]) < reach
    return (
        scene.limits[i, 0] < x < scene.limits[i, 1]
        and scene.limits[i, 2] < y < scene.limits[i, 3]
        and scene.limits[i, 4] < z < scene.limits[i, 5]
    )


@njit(nogil=True, error_model="numpy")
def is_success(scene):
    """Returns robosuite's `_check_success` of the task."""
    held = 0
    while held < scene.num_conditions and _holds(scene, held):
        held += 1
    return held == scene.num_conditions


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
def _put_reading(scene, i, out, start):
    """Writes the task's i-th reading at `start`; returns where the next one begins."""
    kind, first = scene.readings[i, 0], scene.readings[i, 1]
    second = scene.readings[i, 2]
    if kind == task.BODY_POSITION:
        _put_vector(out, start, vectors(scene.xpos)[first])
    elif kind == task.BODY_QUAT:
        _put_quat(out, start, quaternions(scene.xquat)[first])
    elif kind == task.BODY_ROTATION:
        _put_rotation(out, start, matrices(scene.xmat)[first])
    elif kind == task.GEOM_POSITION:
        _put_vector(out, start, vectors(scene.geom_xpos)[first])
    elif kind == task.GEOM_ROTATION:
        _put_rotation(out, start, matrices(scene.geom_xmat)[first])
    elif kind == task.DIFFERENCE:
        _put_difference(out, start, out[first:], out[second:])
    elif kind == task.POSE_IN_HAND:
        _put_pose_in_hand(out, start, first, second)
    else:
        out[start] = 1.0 if _touching(scene, first, second) else 0.0
    return start + task.READING_SIZES[kind]


@njit(nogil=True, error_model="numpy")
def observe(scene, out):
    """Writes the raw observation [Do] in DPPO's order."""
    xquat = quaternions(scene.xquat)
    sites, qpos = vectors(scene.site_xpos), doubles(scene.qpos)
    start = 0
    for arm in range(scene.num_arms):
        _put_vector(out, start, sites[scene.grip_sites[arm]])
        _put_quat(out, start + 3, xquat[scene.hand_bodies[arm]])
        for i in range(2):
            out[start + 7 + i] = qpos[scene.finger_qpos[arm, i]]
        start += task.ARM_OBS_DIM
    for i in range(scene.num_readings):
        start = _put_reading(scene, i, out, start)
