"""Operational-space control of one Panda arm, compiled: robosuite's OSC_POSE.

The formulas are those of robosuite 1.4.1's osc.py (delta control, fixed impedance,
position and rotation uncoupled), reordered so that only a 7x7 and a 6x6 Cholesky
factorisation remain of its inverses and pseudo-inverses.
"""

import math

import numpy as np
from numba import njit

from dynvgd_jax.envs.robosuite.headless import robosuite

quat2mat = robosuite.utils.transform_utils.quat2mat
# robosuite compiles these with numba too, so that they can be called from here.
_spaces = robosuite.utils.control_utils.opspace_matrices
_posture_torques = robosuite.utils.control_utils.nullspace_torques
_turn_left = robosuite.utils.control_utils.orientation_error

_REST_KP = 10.0  # robosuite's nullspace stiffness, 1/s^2
_REST_KD = 2.0 * math.sqrt(_REST_KP)


@njit(nogil=True, error_model="numpy")
def factor(a, n):
    """Factors a's lower triangle [n, n] in place (Cholesky); False if impossible."""
    for j in range(n):
        pivot = a[j, j]
        for k in range(j):
            pivot -= a[j, k] * a[j, k]
        if not pivot > 0.0:
            return False
        pivot = math.sqrt(pivot)
        a[j, j] = pivot
        for i in range(j + 1, n):
            value = a[i, j]
            for k in range(j):
                value -= a[i, k] * a[j, k]
            a[i, j] = value / pivot
    return True


@njit(nogil=True, error_model="numpy")
def solve(lower, b, n):
    """Overwrites b [n] by the solution of `L L^T x = b`."""
    for i in range(n):
        for k in range(i):
            b[i] -= lower[i, k] * b[k]
        b[i] /= lower[i, i]
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            b[i] -= lower[k, i] * b[k]
        b[i] /= lower[i, i]


@njit(nogil=True, error_model="numpy")
def pseudo_solve(a, b, n):
    """Returns `pinv(a) b` [n] for a symmetric a [n, n], which it overwrites.

    Jacobi's eigenvalue iteration; eigenvalues below 1e-15 of the largest count as
    zero, the cut that robosuite's `np.linalg.pinv` makes.
    """
    vectors = np.eye(n)
    for _ in range(30):
        for p in range(n):
            for q in range(p + 1, n):
                if a[p, q] == 0.0:
                    continue
                half = 0.5 * math.atan2(2.0 * a[p, q], a[p, p] - a[q, q])
                c, s = math.cos(half), math.sin(half)
                for k in range(n):
                    x, y = a[k, p], a[k, q]
                    a[k, p], a[k, q] = c * x + s * y, c * y - s * x
                for k in range(n):
                    x, y = a[p, k], a[q, k]
                    a[p, k], a[q, k] = c * x + s * y, c * y - s * x
                for k in range(n):
                    x, y = vectors[k, p], vectors[k, q]
                    vectors[k, p], vectors[k, q] = c * x + s * y, c * y - s * x
    largest = 0.0
    for i in range(n):
        largest = max(largest, abs(a[i, i]))
    x = np.zeros(n)
    for i in range(n):
        if abs(a[i, i]) > 1e-15 * largest:
            weight = 0.0
            for k in range(n):
                weight += vectors[k, i] * b[k]
            for k in range(n):
                x[k] += weight / a[i, i] * vectors[k, i]
    return x


@njit(nogil=True, error_model="numpy")
def solve_symmetric(a, start, b, n):
    """Returns `pinv(c) b` [n], c the n x n block of a that begins at [start, start].

    A singular block happens only where the arm is stretched out to the last bit.
    """
    work, x = np.empty((n, n)), np.empty(n)
    for i in range(n):
        x[i] = b[start + i]
        for j in range(n):
            work[i, j] = a[start + i, start + j]
    if factor(work, n):
        solve(work, x, n)
        return x
    for i in range(n):
        for j in range(n):
            work[i, j] = a[start + i, start + j]
    return pseudo_solve(work, b[start : start + n], n)


@njit(nogil=True, error_model="numpy")
def set_goal(action, position, rotation, scale, goal):
    """Writes the pose that `action [6]` asks for into goal [12] (position, rotation).

    A rotation of exactly zero keeps the old target rotation, as in robosuite.
    """
    delta = np.empty(6)
    for i in range(6):
        delta[i] = min(max(action[i], -1.0), 1.0) * scale[i]
    for i in range(3):
        goal[i] = position[i] + delta[i]
    turn = delta[3:]
    angle = math.sqrt(np.dot(turn, turn))
    if angle == 0.0:
        return
    quat = np.empty(4)
    quat[3] = math.cos(angle / 2.0)
    for i in range(3):
        quat[i] = turn[i] / angle * math.sin(angle / 2.0)
    # BLAS, as in robosuite: it rounds its own way
    goal[3:] = np.dot(quat2mat(quat), rotation).ravel()


@njit(nogil=True, error_model="numpy")
def arm_torques(
    position, rotation, anchors, axes, mass, q, qd, bias, rest, goal, kp, kd
):
    """Returns the torques [7] before clipping.

    position [3], rotation [3, 3]: grip site; anchors, axes [7, 3]: joints in the
    world; mass [7, 7]: joint-space inertia; q, qd, bias, rest [7]; goal [12]:
    target position and rotation; kp, kd [6]: stiffness and damping.
    """
    jac = np.empty((6, 7))
    for i in range(7):
        x, y, z = axes[i, 0], axes[i, 1], axes[i, 2]
        rx = position[0] - anchors[i, 0]
        ry = position[1] - anchors[i, 1]
        rz = position[2] - anchors[i, 2]
        jac[0, i] = y * rz - z * ry
        jac[1, i] = z * rx - x * rz
        jac[2, i] = x * ry - y * rx
        jac[3, i], jac[4, i], jac[5, i] = x, y, z

    error = np.zeros(6)
    for i in range(3):
        error[i] = goal[i] - position[i]
    for c in range(3):  # half the sum of cross products of the columns
        ax, ay, az = rotation[0, c], rotation[1, c], rotation[2, c]
        bx, by, bz = goal[3 + c], goal[6 + c], goal[9 + c]
        error[3] += 0.5 * (ay * bz - az * by)
        error[4] += 0.5 * (az * bx - ax * bz)
        error[5] += 0.5 * (ax * by - ay * bx)

    wrench = np.empty(6)
    pull = np.empty(7)  # acceleration towards the rest posture
    for j in range(7):
        pull[j] = _REST_KP * (rest[j] - q[j]) - _REST_KD * qd[j]
    drift = np.zeros(6)  # J pull: what the posture task would do to the hand
    for i in range(6):
        velocity = 0.0
        for j in range(7):
            velocity += jac[i, j] * qd[j]
            drift[i] += jac[i, j] * pull[j]
        wrench[i] = kp[i] * error[i] - kd[i] * velocity

    # J M^-1 J^T, from L^-1 J^T
    lower = mass.copy()
    factor(lower, 7)
    half = np.empty((6, 7))
    for r in range(6):
        for i in range(7):
            value = jac[r, i]
            for k in range(i):
                value -= lower[i, k] * half[r, k]
            half[r, i] = value / lower[i, i]
    inverse = np.empty((6, 6))
    for r in range(6):
        for c in range(r + 1):
            value = 0.0
            for k in range(7):
                value += half[r, k] * half[c, k]
            inverse[r, c] = value
            inverse[c, r] = value

    # robosuite: tau = J^T [L_p f, L_o t] + bias + N^T M pull with
    # N^T M pull = M pull - J^T Lambda J pull
    along = solve_symmetric(inverse, 0, wrench, 3)
    around = solve_symmetric(inverse, 3, wrench, 3)
    force = solve_symmetric(inverse, 0, drift, 6)
    for i in range(3):
        force[i] = along[i] - force[i]
        force[3 + i] = around[i] - force[3 + i]
    torque = np.empty(7)
    for j in range(7):
        value = bias[j]
        for i in range(6):
            value += jac[i, j] * force[i]
        for k in range(7):
            value += mass[j, k] * pull[k]
        torque[j] = value
    return torque


@njit(nogil=True)
def exact_arm_torques(
    position, rotation, jacp, jacr, mass, qvel, first, q, bias, rest, goal, kp, kd
):
    """Returns `arm_torques` with robosuite's own arithmetic, bit for bit.

    The same operations on arrays of the same memory order (columns first, as
    robosuite's indexing leaves them), because BLAS and LAPACK round by order.
    jacp, jacr [3, nv]: of the grip site, from `mj_jacSite`; mass [7, 7], columns first;
    qvel [nv]; first: the arm's first entry of it; the rest as in `arm_torques`.
    """
    jac_pos, jac_ori = np.empty((7, 3)).T, np.empty((7, 3)).T
    jac = np.empty((7, 6)).T
    for i in range(3):
        for j in range(7):
            jac_pos[i, j] = jac[i, j] = jacp[i, first + j]
            jac_ori[i, j] = jac[3 + i, j] = jacr[i, first + j]
    force = (goal[:3] - position) * kp[:3] + -np.dot(jacp, qvel) * kd[:3]
    turn = _turn_left(goal[3:].reshape((3, 3)), rotation)
    torque = turn * kp[3:] + -np.dot(jacr, qvel) * kd[3:]
    _, lambda_pos, lambda_ori, nullspace = _spaces(mass, jac, jac_pos, jac_ori)
    wrench = np.concatenate((np.dot(lambda_pos, force), np.dot(lambda_ori, torque)))
    posture = _posture_torques(mass, nullspace, rest, q, qvel[first : first + 7])
    return np.dot(jac.T, wrench) + bias + posture
