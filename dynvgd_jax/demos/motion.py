"""What a scripted expert sees and how it moves: scene, pose servo, smooth noise."""

from typing import NamedTuple

import numpy as np

# The controller's output limits at action 1: goal displacement of one control step.
POSITION_STEP_M = 0.05
ROTATION_STEP_RAD = 0.5

CREEP_SPEED = 0.25  # largest position action close to the aim

OPEN, CLOSE = -1.0, 1.0


class Scene(NamedTuple):
    """The simulator's truth that an expert acts on."""

    eef_pos: np.ndarray  # [3] m, point between the fingertips
    eef_rot: np.ndarray  # [3, 3], columns: opening axis, side, pointing direction
    width: float  # m, distance between the fingers, 0 .. 0.08
    object_pos: np.ndarray  # [3] m
    object_rot: np.ndarray  # [3, 3]


class Hand(NamedTuple):
    """One of several hands, as an expert sees it; the fields are `Scene`'s."""

    eef_pos: np.ndarray  # [3] m
    eef_rot: np.ndarray  # [3, 3]
    width: float  # m


class Aim(NamedTuple):
    """What an expert wants to do in this control step."""

    pos: np.ndarray  # [3] m, where the gripper shall go
    yaw: float  # rad, direction of the opening axis in the table plane
    grip: float  # OPEN or CLOSE
    speed: float  # largest length of the position action, 1 is 0.3 m/s
    brake: float  # 1/m, how the speed grows with the way to go, from CREEP_SPEED
    free: bool = True  # a detour does no harm here
    resting: bool = False  # nothing is left to do
    turn_gain: float = 1.0  # share of the servo's gain around the vertical
    tilt: float = 0.0  # rad around the x axis, by which it leans from pointing down


def read_hand(env, arm: int) -> Hand:
    """A hand of a robosuite environment, from its simulator's present data."""
    data, robot = env.sim.data, env.robots[arm]
    fingers = [env.sim.model.get_joint_qpos_addr(j) for j in robot.gripper.joints]
    return Hand(
        eef_pos=np.array(data.site_xpos[robot.eef_site_id]),
        eef_rot=np.array(data.site_xmat[robot.eef_site_id]).reshape(3, 3),
        width=float(data.qpos[fingers[0]] - data.qpos[fingers[1]]),
    )


def read_scene(env, object_body: str) -> Scene:
    """The scene of a robosuite environment, from its simulator's present data."""
    data, body = env.sim.data, env.sim.model.body_name2id(object_body)
    return Scene(
        *read_hand(env, 0),
        object_pos=np.array(data.body_xpos[body]),
        object_rot=np.array(data.body_xmat[body]).reshape(3, 3),
    )


def yaw_of(rot: np.ndarray) -> float:
    """Direction of a frame's first axis in the table plane, rad."""
    return float(np.arctan2(rot[1, 0], rot[0, 0]))


def wrap(angle: float, period: float = 2 * np.pi) -> float:
    """`angle` brought into [-period/2, period/2)."""
    return float((angle + period / 2) % period - period / 2)


def nearest_yaw(yaw: float, reference: float, period: float = np.pi) -> float:
    """The angle equal to `yaw` modulo `period` that lies nearest to `reference`."""
    return reference + wrap(yaw - reference, period)


def pointing_down(yaw: float) -> np.ndarray:
    """Rotation of a gripper that points down with its opening axis at `yaw`."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, s, 0.0], [s, -c, 0.0], [0.0, 0.0, -1.0]])


def rotation_vector(rot: np.ndarray) -> np.ndarray:
    """Axis times angle of a rotation matrix, `[3]`, angle in [0, pi]."""
    axis = np.array(
        [rot[2, 1] - rot[1, 2], rot[0, 2] - rot[2, 0], rot[1, 0] - rot[0, 1]]
    )
    sine, cosine = np.linalg.norm(axis) / 2, (np.trace(rot) - 1) / 2
    if sine < 1e-9:  # angle 0; an exact half turn never occurs in servoing
        return np.zeros(3)
    return axis / (2 * sine) * np.arctan2(sine, cosine)


def servo(scene: Scene | Hand, aim: Aim, gain: float = 1.3) -> np.ndarray:
    """The action that moves the gripper towards an aim.

    A goal `aim - pose` ahead lets the controller, critically damped with kp = 150,
    approach with a time constant of 3.3 control steps; the gain shortens it and
    lessens the error that gravity and contacts leave.

    Returns:
      `[7]` position, rotation and gripper action in [-1, 1].
    """
    way = aim.pos - scene.eef_pos
    step = gain * way / POSITION_STEP_M
    length = np.linalg.norm(step)
    most = min(aim.speed, CREEP_SPEED + aim.brake * np.linalg.norm(way))
    if length > most:
        step *= most / length
    turn = rotation_vector(_wanted(aim) @ scene.eef_rot.T)
    turn *= gain * np.array([1.0, 1.0, aim.turn_gain]) / ROTATION_STEP_RAD
    turn = np.clip(turn, -aim.speed, aim.speed)
    return np.clip(np.concatenate([step, turn, [aim.grip]]), -1.0, 1.0)


def _wanted(aim: Aim) -> np.ndarray:
    down = pointing_down(aim.yaw)
    if aim.tilt == 0.0:
        return down
    c, s = np.cos(aim.tilt), np.sin(aim.tilt)
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]]) @ down


class SmoothNoise:
    """A random walk drawn back to zero: standard deviation 1, memory in steps."""

    def __init__(self, rng: np.random.Generator, size: int, memory_steps: float):
        self._rng = rng
        self._keep = float(np.exp(-1.0 / memory_steps))
        self._value = rng.standard_normal(size)

    def draw(self) -> np.ndarray:
        """The next value, `[size]`."""
        fresh = self._rng.standard_normal(self._value.shape)
        self._value = self._keep * self._value + np.sqrt(1 - self._keep**2) * fresh
        return self._value
