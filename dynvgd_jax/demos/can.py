"""Scripted operators for Can: carry the can from the left bin to its quarter."""

from typing import NamedTuple

import numpy as np

from dynvgd_jax.demos.motion import CLOSE, OPEN, Aim, Scene, nearest_yaw, yaw_of
from dynvgd_jax.demos.operators import Operator, Script

CAN_RADIUS_M = 0.025
CAN_HALF_HEIGHT_M = 0.040
FLOOR_Z_M = 0.82  # inside of both bins
GOAL_LOW_M = np.array([0.10, 0.28])  # robosuite's success region of the can
GOAL_HIGH_M = np.array([0.295, 0.525])
AFTERWARDS_XY_M = (0.15, 0.36)  # where the gripper rests after success
HOME_XY_M = (-0.03, -0.10)  # and after giving up
BIN_EDGE_Y_M = -0.01  # beyond it the can has left the first bin
START_YAW_RAD = np.pi / 2


class CanStyle(NamedTuple):
    """How one operator does one episode."""

    speed: float = 1.0  # largest position action
    brake: float = 10.0  # 1/m, how late it slows down before an aim
    grasp_yaw: float = 0.0  # rad from the starting yaw
    grasp_height: float = 0.015  # m above the can's centre
    grasp_side: float = 0.0  # m off the can's centre, across the opening axis
    hover: float = 0.10  # m above the grasp, before going down
    carry_z: float = 1.04  # m, height of the gripper while carrying
    drop_x: float = 0.16  # m
    drop_y: float = 0.37  # m
    release: float = 0.02  # m between the can's bottom and the floor
    let_go_y: float = 9.0  # m, opens as soon as it has carried the can this far
    gives_up: float = 0.0  # 1: rests after a mishap instead of trying again
    rest_z: float = 1.05  # m, height of the gripper after the work


def _in_goal(pos: np.ndarray) -> bool:
    inside = np.all(pos[:2] > GOAL_LOW_M) and np.all(pos[:2] < GOAL_HIGH_M)
    return bool(inside and pos[2] < 0.9)


def decide(style: CanStyle, scene: Scene) -> Aim:
    """The next aim; depends on the scene alone, so that it can be learned."""
    eef, can = scene.eef_pos, scene.object_pos
    upright = abs(scene.object_rot[2, 2]) > 0.7
    yaw = START_YAW_RAD + style.grasp_yaw
    half_height = CAN_HALF_HEIGHT_M if upright else CAN_RADIUS_M
    between = np.linalg.norm(can[:2] - eef[:2]) < 0.03 and abs(can[2] - eef[2]) < 0.055
    holds = between and 0.03 < scene.width < 2 * CAN_RADIUS_M + 0.003
    on_floor = can[2] - half_height < FLOOR_Z_M + 0.002
    if holds and not on_floor:
        return _carry(style, scene, half_height)
    if holds and not _in_goal(can):  # just grasped
        up = eef + [0.0, 0.0, 0.05]
        return Aim(up, yaw, CLOSE, style.speed, style.brake)
    if _in_goal(can) or (between and eef[1] > GOAL_LOW_M[1]):
        return _leave(style, scene)
    return _approach(style, scene, upright)


def _approach(style: CanStyle, scene: Scene, upright: bool) -> Aim:
    eef, can = scene.eef_pos, scene.object_pos
    yaw = START_YAW_RAD + style.grasp_yaw
    grasp = can + [0.0, 0.0, style.grasp_height]
    if not upright:  # lying: close across its axis
        axis = scene.object_rot[:, 2]
        across = np.arctan2(axis[1], axis[0]) + np.pi / 2
        yaw = nearest_yaw(across, START_YAW_RAD)
        grasp = can + [0.0, 0.0, 0.005]
    grasp[:2] += style.grasp_side * np.array([np.sin(yaw), -np.cos(yaw)])
    off = np.linalg.norm(grasp[:2] - eef[:2])
    turned = abs(nearest_yaw(yaw, yaw_of(scene.eef_rot)) - yaw_of(scene.eef_rot))
    high = eef[2] - grasp[2]
    if style.gives_up and (closed_on_nothing(scene) or can[1] > BIN_EDGE_Y_M):
        return _rest(style, scene, CLOSE if closed_on_nothing(scene) else OPEN)
    if closed_on_nothing(scene) and off < 0.06 and high < style.hover - 0.03:
        # Come up first, open there.
        up = np.array([grasp[0], grasp[1], grasp[2] + style.hover])
        return Aim(up, yaw, CLOSE, style.speed, style.brake)
    if high < 0.02 and off < 0.012 and (abs(high) < 0.008 or scene.width < 0.075):
        return Aim(grasp, yaw, CLOSE, style.speed, style.brake)
    opened = scene.width > 0.070
    ready = off < 0.012 and turned < 0.15 and opened
    near = np.clip((off - 0.012) / 0.03, 0.0, 1.0)
    height = style.hover * (near if turned < 0.3 and opened else 1.0)
    goal = grasp + [0.0, 0.0, 0.0 if ready else height]
    return Aim(goal, yaw, OPEN, style.speed, style.brake, free=ready or near > 0.1)


def _carry(style: CanStyle, scene: Scene, half_height: float) -> Aim:
    eef, can = scene.eef_pos, scene.object_pos
    yaw = nearest_yaw(yaw_of(scene.eef_rot), START_YAW_RAD)
    drop = np.array([style.drop_x, style.drop_y]) + (eef - can)[:2]
    off = np.linalg.norm(drop - eef[:2])
    if eef[1] > style.let_go_y:
        return Aim(eef, yaw, OPEN, style.speed, style.brake)
    low = eef[2] < style.carry_z - 0.05 and eef[1] > GOAL_LOW_M[1]
    if off < (0.07 if low else 0.03):  # once on its way down it goes on
        bottom = can[2] - half_height - FLOOR_Z_M
        if bottom < style.release + 0.005:
            return Aim(eef, yaw, OPEN, style.speed, style.brake)
        down = np.array([drop[0], drop[1], eef[2] - bottom + style.release])
        return Aim(down, yaw, CLOSE, style.speed, style.brake)
    risen = np.clip((eef[2] - (style.carry_z - 0.06)) / 0.04, 0.0, 1.0)
    way = eef[:2] + risen * (drop - eef[:2])
    return Aim(
        np.array([way[0], way[1], style.carry_z]), yaw, CLOSE, style.speed, style.brake
    )


def _leave(style: CanStyle, scene: Scene) -> Aim:
    eef = scene.eef_pos
    yaw = nearest_yaw(yaw_of(scene.eef_rot), START_YAW_RAD)
    if scene.width < 0.068 and eef[2] < style.rest_z - 0.1:
        return Aim(eef, yaw, OPEN, style.speed, style.brake)
    return _rest(style, scene, OPEN)


def _rest(style: CanStyle, scene: Scene, grip: float) -> Aim:
    eef = scene.eef_pos
    yaw = nearest_yaw(yaw_of(scene.eef_rot), START_YAW_RAD)
    place = AFTERWARDS_XY_M if _in_goal(scene.object_pos) else HOME_XY_M
    goal = np.array([*place, style.rest_z])
    resting = np.linalg.norm(goal - eef) < 0.03
    return Aim(goal, yaw, grip, style.speed, style.brake, resting=resting)


def closed_on_nothing(scene: Scene) -> bool:
    """Whether the fingers have met without the can between them."""
    return scene.width < 0.035


_OPERATORS = {
    "expert": Operator({}),
    "careful": Operator(
        {
            "speed": (0.7, 0.9),
            "brake": (4.0, 6.0),
            "grasp_yaw": (-0.3, 0.3),
            "grasp_height": (0.0, 0.02),
            "hover": (0.07, 0.1),
            "carry_z": (1.02, 1.06),
            "drop_x": (0.14, 0.18),
            "drop_y": (0.355, 0.385),
            "release": (0.01, 0.03),
        },
        wobble=0.7,
    ),
    "swift": Operator(
        {
            "speed": 1.0,
            "grasp_yaw": (-0.5, 0.1),
            "grasp_height": (0.01, 0.025),
            "hover": (0.05, 0.07),
            "carry_z": (0.99, 1.02),
            "drop_x": (0.14, 0.19),
            "drop_y": (0.35, 0.4),
            "release": (0.03, 0.07),
        },
    ),
    "crosswise": Operator(  # turns the gripper before grasping
        {
            "speed": (0.8, 1.0),
            "grasp_yaw": (-1.3, -0.8),
            "grasp_height": (0.0, 0.02),
            "carry_z": (1.0, 1.05),
            "drop_x": (0.17, 0.2),
            "drop_y": (0.36, 0.4),
            "release": (0.045, 0.07),
        },
        hesitation=0.01,
    ),
    "high": Operator(  # closes on the can's rim, misses, tries again or stops
        {"grasp_height": (0.044, 0.056), "gives_up": [0.0, 0.0, 1.0]},
        after_mishap={"grasp_height": (0.0, 0.02)},
    ),
    "beside": Operator(  # closes off the can's centre
        {
            "grasp_side": [-0.026, -0.021, 0.021, 0.026],
            "speed": (0.7, 1.0),
            "gives_up": [0.0, 0.0, 1.0],
        },
        after_mishap={"grasp_side": (-0.006, 0.006)},
        hesitation=0.01,
    ),
    "hasty": Operator(  # lets go on the way, short of the wall or on it
        {
            "speed": 1.0,
            "let_go_y": (0.12, 0.27),
            "carry_z": (0.98, 1.03),
            "gives_up": 1.0,
        },
    ),
    "edge": Operator(  # drops the can onto the walls between the quarters
        {
            "speed": (0.8, 1.0),
            "drop_x": (0.08, 0.12),
            "drop_y": (0.27, 0.31),
            "release": (0.08, 0.12),
            "gives_up": 1.0,
        },
    ),
}

SCRIPT = Script(
    object_body=lambda env: env.objects[env.object_id].root_body,
    style=CanStyle,
    decide=decide,
    closed_on_nothing=closed_on_nothing,
    operators=_OPERATORS,
)
