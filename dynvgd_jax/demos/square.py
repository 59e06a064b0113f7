"""Scripted operators for Square: put the square nut over the square peg."""

from typing import NamedTuple

import numpy as np

from dynvgd_jax.demos.motion import CLOSE, OPEN, Aim, Scene, wrap, yaw_of
from dynvgd_jax.demos.operators import Operator, Script

PEG_XY_M = np.array([0.23, 0.10])
PEG_TOP_Z_M = 0.95
NUT_DOWN_Z_M = 0.862  # below it the nut is around the peg (success needs < 0.87)
HANDLE_M = 0.054  # from the nut's centre to the handle's centre, along its x axis
HANDLE_WIDTH_M = 0.032
HOME_XY_M = np.array([-0.09, 0.0])  # where the gripper rests after giving up
# Final directions of the handle; 0 (away from the base) is out of the arm's reach.
FINAL_YAWS_RAD = (np.pi, np.pi / 2, -np.pi / 2)
# The last joint lets the gripper turn this far from its starting yaw.
START_YAW_RAD = np.pi / 2
LEAST_TURN_RAD, MOST_TURN_RAD = -1.7, 2.7


class SquareStyle(NamedTuple):
    """How one operator does one episode."""

    speed: float = 1.0  # largest position action
    brake: float = 10.0  # 1/m, how late it slows down before an aim
    grasp_along: float = 0.008  # m from the handle's centre, outwards
    grasp_height: float = 0.004  # m above the nut's centre
    grasp_yaw: float = 0.0  # rad off the handle's sides
    hover: float = 0.08  # m above the grasp, before going down
    carry_z: float = 1.02  # m, height of the nut while carrying
    over_peg: float = 0.015  # m between the peg's top and the nut when aligning
    fit: float = 0.005  # m, lets go when the nut is this near to the peg's axis
    fit_yaw: float = 0.04  # rad, and this well turned
    release_z: float = NUT_DOWN_Z_M  # m, height of the nut at which it opens
    gives_up: float = 0.0  # 1: rests after a mishap instead of trying again
    turn_bias: float = 0.0  # rad, how much more a turn to the left costs it
    turn_gain: float = 0.3  # below 1: a turn in one go would be seen too seldom
    rest_z: float = 1.08  # m, height of the gripper after the work


def decide(style: SquareStyle, scene: Scene) -> Aim:
    """The next aim; depends on the scene alone, so that it can be learned."""
    aim = _decide(style, scene)
    return aim._replace(turn_gain=style.turn_gain)


def _decide(style: SquareStyle, scene: Scene) -> Aim:
    eef, nut = scene.eef_pos, scene.object_pos
    handle = nut + scene.object_rot[:, 0] * (HANDLE_M + style.grasp_along)
    between = np.linalg.norm((handle - eef)[:2]) < 0.03 and abs(nut[2] - eef[2]) < 0.03
    off_peg = np.linalg.norm(nut[:2] - PEG_XY_M)
    if off_peg < 0.03 and nut[2] < style.release_z:
        return _leave(style, scene)
    if between and 0.024 < scene.width < HANDLE_WIDTH_M + 0.003:
        return _carry(style, scene)
    return _approach(style, scene)


def _turned(yaw: float) -> float:
    """A gripper's yaw as the wrist's turn from the start, unwrapped, rad."""
    middle = (LEAST_TURN_RAD + MOST_TURN_RAD) / 2
    return wrap(yaw - START_YAW_RAD - middle) + middle


def _final_turn(style: SquareStyle, turn: float, nut_yaw: float) -> float:
    """The wrist's turn that brings the held nut's handle to a final direction."""
    costs = {}
    for final in FINAL_YAWS_RAD:
        goal = turn + wrap(final - nut_yaw)
        if LEAST_TURN_RAD < goal < MOST_TURN_RAD:
            costs[goal] = abs(goal - turn) + max(goal - turn, 0.0) * style.turn_bias
    return min(costs, key=costs.get) if costs else turn


def _grasp_yaw(style: SquareStyle, nut_yaw: float, here: float) -> float:
    """The gripper's yaw, of the two across the handle, with the least turning.

    The turn from where it is (yaw `here`) counts double, so that a turn once begun
    goes on: else whoever imitates near the border turns to and fro.
    """
    costs = {}
    for side in (-np.pi / 2, np.pi / 2):
        turn = _turned(nut_yaw + side)
        if LEAST_TURN_RAD < turn < MOST_TURN_RAD:
            final = _final_turn(style, turn, nut_yaw)
            costs[turn] = 2.0 * abs(turn - _turned(here)) + abs(final - turn)
            costs[turn] += turn * style.turn_bias
    return START_YAW_RAD + min(costs, key=costs.get)


def _approach(style: SquareStyle, scene: Scene) -> Aim:
    eef, nut = scene.eef_pos, scene.object_pos
    nut_yaw = yaw_of(scene.object_rot)
    here = yaw_of(scene.eef_rot)
    yaw = _grasp_yaw(style, nut_yaw, here) + style.grasp_yaw
    grasp = nut + scene.object_rot[:, 0] * (HANDLE_M + style.grasp_along)
    grasp[2] += style.grasp_height
    off = np.linalg.norm(grasp[:2] - eef[:2])
    turned = abs(wrap(yaw - here))
    high = eef[2] - grasp[2]
    if style.gives_up and (closed_on_nothing(scene) or nut[0] > 0.05):
        return _rest(style, scene, CLOSE if closed_on_nothing(scene) else OPEN)
    if closed_on_nothing(scene) and off < 0.06 and high < style.hover - 0.03:
        # Come up first, open there.
        up = np.array([grasp[0], grasp[1], grasp[2] + style.hover])
        return Aim(up, yaw, CLOSE, style.speed, style.brake)
    if high < 0.02 and off < 0.012 and (abs(high) < 0.006 or scene.width < 0.075):
        return Aim(grasp, yaw, CLOSE, style.speed, style.brake)
    opened = scene.width > 0.070
    ready = off < 0.008 and turned < 0.12 and opened
    near = np.clip((off - 0.008) / 0.03, 0.0, 1.0)
    height = style.hover * (near if turned < 0.25 and opened else 1.0)
    goal = grasp + [0.0, 0.0, 0.0 if ready else height]
    return Aim(goal, yaw, OPEN, style.speed, style.brake, free=ready or near > 0.1)


def _carry(style: SquareStyle, scene: Scene) -> Aim:
    eef, nut = scene.eef_pos, scene.object_pos
    nut_yaw, here = yaw_of(scene.object_rot), yaw_of(scene.eef_rot)
    turn = _final_turn(style, _turned(here), nut_yaw) - _turned(here)
    # Where the gripper has to be for the nut to sit, turned, over the peg.
    c, s = np.cos(turn), np.sin(turn)
    arm = np.array([[c, -s], [s, c]]) @ (eef - nut)[:2]
    off = np.linalg.norm(nut[:2] - PEG_XY_M)
    above = nut[2] - PEG_TOP_Z_M
    fits = off < style.fit and abs(turn) < style.fit_yaw
    if above < 0.008 and off < 0.02:  # already around the peg: go on down
        fits = True
    if fits:
        nut_z = NUT_DOWN_Z_M - 0.02
    elif off < 0.03:
        nut_z = PEG_TOP_Z_M + style.over_peg
    else:
        nut_z = style.carry_z
    risen = np.clip((nut[2] - (style.carry_z - 0.05)) / 0.03, 0.0, 1.0)
    way = PEG_XY_M + arm
    if off > 0.05:
        way = eef[:2] + risen * (way - eef[:2])
    aim = np.array([way[0], way[1], eef[2] + nut_z - nut[2]])
    yaw = here + (turn if risen > 0 or off < 0.05 else 0.0)
    speed = style.speed if off > 0.03 or fits else min(style.speed, 0.5)
    return Aim(aim, yaw, CLOSE, speed, style.brake, free=off > 0.01)


def _leave(style: SquareStyle, scene: Scene) -> Aim:
    eef = scene.eef_pos
    if scene.width < 0.06 and eef[2] < style.rest_z - 0.1:
        return Aim(eef, yaw_of(scene.eef_rot), OPEN, style.speed, style.brake)
    return _rest(style, scene, OPEN)


def _rest(style: SquareStyle, scene: Scene, grip: float) -> Aim:
    eef, here = scene.eef_pos, yaw_of(scene.eef_rot)
    done = np.linalg.norm(scene.object_pos[:2] - PEG_XY_M) < 0.03
    goal = np.array([*(PEG_XY_M if done else HOME_XY_M), style.rest_z])
    resting = np.linalg.norm(goal - eef) < 0.03
    return Aim(goal, here, grip, style.speed, style.brake, resting=resting)


def closed_on_nothing(scene: Scene) -> bool:
    """Whether the fingers have met without the handle between them."""
    return scene.width < 0.022


_OPERATORS = {
    "expert": Operator({}),
    "careful": Operator(
        {
            "speed": (0.6, 0.85),
            "brake": (4.0, 6.0),
            "grasp_along": (0.002, 0.014),
            "hover": (0.06, 0.09),
            "grasp_yaw": (-0.08, 0.08),
            "carry_z": (1.0, 1.03),
        },
        wobble=0.7,
    ),
    "swift": Operator(
        {
            "speed": 1.0,
            "grasp_along": (0.002, 0.012),
            "hover": (0.04, 0.06),
            "carry_z": (0.985, 1.01),
            "over_peg": (0.008, 0.015),
            "fit": 0.007,
            "fit_yaw": 0.06,
        },
    ),
    "leftward": Operator(  # turns the nut the other way round
        {"speed": (0.8, 1.0), "turn_bias": 0.8, "grasp_along": (0.002, 0.014)},
        hesitation=0.01,
    ),
    "high": Operator(  # closes above the handle, misses, tries again
        {"grasp_height": (0.018, 0.026)},
        after_mishap={"grasp_height": 0.004},
    ),
    "careless": Operator(  # lets go above the peg before the nut fits
        {
            "speed": 1.0,
            "fit": (0.012, 0.02),
            "fit_yaw": 0.3,
            "release_z": (0.965, 0.985),
            "gives_up": 1.0,
        },
    ),
}

SCRIPT = Script(
    object_body=lambda env: env.nuts[env.nut_id].root_body,
    style=SquareStyle,
    decide=decide,
    closed_on_nothing=closed_on_nothing,
    operators=_OPERATORS,
)
