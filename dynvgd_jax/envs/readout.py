"""Observation and success of each task, compiled, as robosuite computes them.

Each function reads MuJoCo's arrays through `Scene` (control.py). Rotation matrices
and quaternions pass through robosuite's own float32 conversions.
"""

import math

import numpy as np
from numba import njit
from robosuite.utils.transform_utils import mat2quat, quat2mat

LIFT, CAN, SQUARE, TRANSPORT = 0, 1, 2, 3
TASK_CODES = {"lift": LIFT, "can": CAN, "square": SQUARE, "transport": TRANSPORT}


@njit(nogil=True, error_model="numpy")
def _distance(a, b):
    return math.sqrt((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 + (a[2] - b[2]) ** 2)


@njit(nogil=True, error_model="numpy")
def _touching(scene, first, second):
    """Whether some geom of one group touches one of the other (1 = member)."""
    for i in range(scene.ncon[0]):
        a, b = scene.contact_geoms[i, 0], scene.contact_geoms[i, 1]
        if (first[a] and second[b]) or (first[b] and second[a]):
            return True
    return False


@njit(nogil=True, error_model="numpy")
def is_success(scene):
    """Returns robosuite's `_check_success` of the task."""
    code = scene.task_code
    p = scene.limits
    if code == TRANSPORT:
        flags = scene.geom_groups
        return _touching(scene, flags[0], flags[1]) and _touching(
            scene, flags[2], flags[3]
        )
    body = scene.xpos[scene.object_bodies[0]]
    if code == LIFT:
        return body[2] > p[0]
    hand = scene.site_xpos[scene.grip_sites[0]]
    if 1.0 - math.tanh(10.0 * _distance(hand, body)) >= 0.6:
        return False
    if code == CAN:
        return p[0] < body[0] < p[1] and p[2] < body[1] < p[3] and p[4] < body[2] < p[5]
    peg = scene.xpos[scene.object_bodies[1]]
    return (
        abs(body[0] - peg[0]) < p[0] and abs(body[1] - peg[1]) < p[0] and body[2] < p[1]
    )


@njit(nogil=True, error_model="numpy")
def _put_quat(out, start, quat):
    """Writes MuJoCo's (w, x, y, z) as robosuite's (x, y, z, w)."""
    out[start], out[start + 1], out[start + 2] = quat[1], quat[2], quat[3]
    out[start + 3] = quat[0]


@njit(nogil=True, error_model="numpy")
def _put_pose_in_hand(out, start, hand_pos, hand_quat, position, quat):
    """Writes an object's position [3] and quaternion [4] in the hand's frame.

    As robosuite: both poses are rounded to float32 before they are combined.
    """
    hand_rot = quat2mat(hand_quat).astype(np.float32).astype(np.float64)
    rot = quat2mat(quat).astype(np.float32).astype(np.float64)
    to_hand = np.ascontiguousarray(hand_rot.T)
    origin = hand_pos.astype(np.float32).astype(np.float64)
    place = position.astype(np.float32).astype(np.float64)
    for i in range(3):
        value, shift = 0.0, 0.0
        for k in range(3):
            value += to_hand[i, k] * place[k]
            shift += to_hand[i, k] * origin[k]
        out[start + i] = value - shift
    relative = np.zeros((3, 3))
    for i in range(3):
        for j in range(3):
            for k in range(3):
                relative[i, j] += to_hand[i, k] * rot[k, j]
    out[start + 3 : start + 7] = mat2quat(relative)


@njit(nogil=True, error_model="numpy")
def _put_transport(scene, hands, out, start):
    """Writes TwoArmTransport's object-state (41 values) at `start`."""
    payload, trash = scene.object_bodies[0], scene.object_bodies[1]
    lid, target_bin, trash_bin = scene.geoms[0], scene.geoms[1], scene.geoms[2]
    places = (scene.xpos[payload], scene.xpos[trash], scene.geom_xpos[lid])
    turns = (scene.xmat[payload], scene.xmat[trash], scene.geom_xmat[lid])
    for i in range(3):
        out[start : start + 3] = places[i]
        out[start + 3 : start + 7] = mat2quat(turns[i].copy().reshape(3, 3))
        start += 7
    out[start : start + 3] = scene.geom_xpos[target_bin]
    out[start + 3 : start + 6] = scene.geom_xpos[trash_bin]
    out[start + 6 : start + 9] = places[0] - hands[0]
    out[start + 9 : start + 12] = places[2] - hands[0]
    out[start + 12 : start + 15] = places[0] - hands[1]
    out[start + 15 : start + 18] = places[1] - hands[1]
    flags = scene.geom_groups
    out[start + 18] = 1.0 if _touching(scene, flags[0], flags[1]) else 0.0
    out[start + 19] = 1.0 if _touching(scene, flags[2], flags[3]) else 0.0


@njit(nogil=True, error_model="numpy")
def observe(scene, out):
    """Writes the raw observation [Do] in DPPO's order."""
    arms = len(scene.grip_sites)
    hands = np.empty((arms, 3))
    for a in range(arms):
        hands[a] = scene.site_xpos[scene.grip_sites[a]]
        start = 9 * a
        out[start : start + 3] = hands[a]
        _put_quat(out, start + 3, scene.xquat[scene.hand_bodies[a]])
        out[start + 7] = scene.qpos[scene.finger_qpos[a, 0]]
        out[start + 8] = scene.qpos[scene.finger_qpos[a, 1]]
    start = 9 * arms
    if scene.task_code == TRANSPORT:
        _put_transport(scene, hands, out, start)
        return
    place = scene.xpos[scene.object_bodies[0]]
    out[start : start + 3] = place
    _put_quat(out, start + 3, scene.xquat[scene.object_bodies[0]])
    if scene.task_code == LIFT:
        out[start + 7 : start + 10] = hands[0] - place
    else:
        _put_pose_in_hand(
            out,
            start + 7,
            hands[0],
            out[3:7].copy(),
            place,
            out[start + 3 : start + 7].copy(),
        )
