"""Scripted operators for Transport: one hand uncovers and hands over, one receives."""

from typing import Any, NamedTuple

import numpy as np

from dynvgd_jax.demos.motion import (
    CLOSE,
    OPEN,
    Aim,
    Hand,
    nearest_yaw,
    read_hand,
    yaw_of,
)
from dynvgd_jax.demos.operators import Operator, PairScript

# Bins are 0.3 m wide and stay where they are, on 5 mm.
START_BIN_XY_M = np.array([0.2, -0.45])
TARGET_BIN_XY_M = np.array([-0.2, 0.45])
TRASH_BIN_XY_M = np.array([0.2, 0.45])
RIM_Z_M = 0.95  # of the bins
INSIDE_M = 0.14  # from a bin's centre, along x and along y
CARRIED_M, LOWERED_M = 0.04, 0.10  # above a place; while lowering it may drift more
LID_HANDLE_Z_M = 0.825  # of the lid when it lies on the table
LID_OFF_X_M = 0.0  # the lid's handle is short of it: the bin is open
HANDLE_WIDTH_M = 0.030  # of the payload, a hammer
HEAD_FAR_M = 0.038  # along the handle, both grasps, when the head is at the far end
HEAD_SHIFT_M = 0.017  # from the handle's middle to the hammer's
LID_HANDLE_WIDTH_M = 0.020
TRASH_WIDTH_M = 0.040
CLEAR_Z_M = 1.02  # an empty hand at this height passes over the rims
NEAR_BASE_Y_M, LEAN_M = 0.41, 0.02  # where it rises aslant, and by how much
MOST_TILT_RAD = 0.35  # of the fingers towards the base
START_YAWS_RAD = (np.pi, 0.0)  # opening axes along x, across handles of lid and payload
HOME_M = np.array([[0.0, -0.36, 1.10], [0.0, 0.36, 1.10]])
WAIT_M = np.array([0.0, 0.20, 1.12])  # where the second hand waits for the payload


class TransportStyle(NamedTuple):
    """How one operator does one episode."""

    speed: float = 1.0  # largest position action
    brake: float = 10.0  # 1/m, how late it slows down before an aim
    hover: float = 0.08  # m above a grasp, before going down
    lid_x: float = -0.2  # m, where it puts the lid
    lid_release: float = 0.03  # m of the lid above the table when it lets go
    grasp_along: float = 0.060  # m from the handle's middle to the first base
    grasp_height: float = 0.0  # m above the payload
    take_along: float = 0.045  # m from the middle to the second base
    carry_z: float = 1.08  # m, height of a hand that carries
    meet_z: float = 1.04  # m, height at which the payload is handed over
    let_go_off: float = 0.0  # m, the first hand opens when the second is so near
    trash_drop_y: float = TRASH_BIN_XY_M[1]  # m
    trash_let_go_x: float = 9.0  # m, opens once it has carried the trash this far
    drop_x: float = TARGET_BIN_XY_M[0]  # m, of the payload
    let_go_y: float = 9.0  # m, opens once it has carried the payload this far
    gives_up: float = 0.0  # 1: rests after a mishap instead of trying again


class TransportScene(NamedTuple):
    """The simulator's truth that both hands act on."""

    hands: tuple[Hand, Hand]
    lid_pos: np.ndarray  # [3] m, the lid's handle
    payload_pos: np.ndarray  # [3] m, the middle of the hammer's handle
    payload_rot: np.ndarray  # [3, 3], the third column points to the head
    trash_pos: np.ndarray  # [3] m
    trash_rot: np.ndarray  # [3, 3]


def read(env: Any) -> TransportScene:
    """The scene of a robosuite environment, from its simulator's present data."""
    data, parts = env.sim.data, env.transport
    payload, trash = parts.payload_body_id, parts.trash_body_id
    return TransportScene(
        hands=(read_hand(env, 0), read_hand(env, 1)),
        lid_pos=np.array(data.geom_xpos[parts.lid_handle_geom_ids[0]]),
        payload_pos=np.array(data.body_xpos[payload]),
        payload_rot=np.array(data.body_xmat[payload]).reshape(3, 3),
        trash_pos=np.array(data.body_xpos[trash]),
        trash_rot=np.array(data.body_xmat[trash]).reshape(3, 3),
    )


def decide(style: TransportStyle, scene: TransportScene) -> tuple[Aim, Aim]:
    """The next aims; depend on the scene alone, so that they can be learned."""
    aims = _give(style, scene), _receive(style, scene)
    first, second = (
        aim._replace(tilt=_tilt(hand)) for aim, hand in zip(aims, scene.hands)
    )
    return first, second


def _tilt(hand: Hand) -> float:
    """How the hand leans near its base: fingers towards it, so the wrist stays away.

    Straight down there the forearm is in line with the hand, where two joints turn
    around the same axis, and the elbow is at its limit.
    """
    y = hand.eef_pos[1]
    return float(np.sign(y) * MOST_TILT_RAD * np.clip((abs(y) - 0.2) / 0.2, 0.0, 1.0))


def _holds(hand: Hand, pos: np.ndarray, width: float, reach: float = 0.03) -> bool:
    """Whether a hand has closed on what is `width` wide and at `pos`."""
    near = np.linalg.norm((pos - hand.eef_pos)[:2]) < reach
    near = near and abs(pos[2] - hand.eef_pos[2]) < reach
    return bool(near and width - 0.012 < hand.width < width + 0.006)


def _inside(pos: np.ndarray, bin_xy: np.ndarray) -> bool:
    """Whether something is in a bin, or so low above it that it falls in."""
    return bool(np.all(np.abs(pos[:2] - bin_xy) < INSIDE_M) and pos[2] < RIM_Z_M)


def _handle(scene: TransportScene, along: float) -> np.ndarray:
    """A place on the payload's handle, so far from its middle to the first base, m.

    The head may lie at either end. At the far one, both hands hold it nearer to there:
    else it turns between the fingers under the head's weight.
    """
    axis = scene.payload_rot[:, 2]  # to the head
    if axis[1] > 0.0:
        return scene.payload_pos - (along - HEAD_FAR_M) * axis
    return scene.payload_pos + along * axis


def _across(scene: TransportScene, arm: int) -> float:
    """The hand's yaw across the payload's handle, nearest to where it starts from."""
    axis = scene.payload_rot[:, 2]
    return nearest_yaw(np.arctan2(axis[1], axis[0]) + np.pi / 2, START_YAWS_RAD[arm])


def _aim(style: TransportStyle, arm: int, pos, grip: float, **changes) -> Aim:
    aim = Aim(np.asarray(pos), START_YAWS_RAD[arm], grip, style.speed, style.brake)
    return aim._replace(**changes)


def _over(hand: Hand, goal: np.ndarray, clear_z: float) -> np.ndarray:
    """The next waypoint to a far goal: up first, across above the rims, then down."""
    way = goal[:2] - hand.eef_pos[:2]
    if np.linalg.norm(way) < 0.06:
        return goal
    risen = np.clip((hand.eef_pos[2] - clear_z + 0.06) / 0.04, 0.0, 1.0)
    x, y = hand.eef_pos[:2] + risen * way
    return np.array([x, y + (1.0 - risen) * _lean(hand), max(clear_z, goal[2])])


def _lean(hand: Hand) -> float:
    """How far to aim away from the base while rising beside it, m along y.

    Straight up there folds the elbow to its limit, from which it does not come back.
    """
    y = hand.eef_pos[1]
    return float(-np.sign(y) * LEAN_M) if abs(y) > NEAR_BASE_Y_M else 0.0


def _lower(style: TransportStyle, hand: Hand, arm: int, goal_xy, bottom: float) -> Aim:
    """Carries what it holds above a place and then down until the hand is at bottom."""
    off = np.linalg.norm(goal_xy - hand.eef_pos[:2])
    low = hand.eef_pos[2] < style.carry_z - 0.04
    if off < (LOWERED_M if low else CARRIED_M):
        return _aim(style, arm, [*goal_xy, bottom], CLOSE)
    way = _over(hand, np.array([*goal_xy, style.carry_z]), style.carry_z)
    return _aim(style, arm, way, CLOSE)


def _let_go(style: TransportStyle, hand: Hand, arm: int, at_xy) -> Aim:
    """Opens at a place; then up, since the fingers still stand around the object."""
    if hand.width < 0.070:
        return _aim(style, arm, [*at_xy, hand.eef_pos[2]], OPEN, free=False)
    up = hand.eef_pos + [0.0, _lean(hand), 0.12]
    return _aim(style, arm, up, OPEN, free=False)


def _rest(style: TransportStyle, hand: Hand, arm: int, grip: float) -> Aim:
    goal = HOME_M[arm]
    resting = np.linalg.norm(goal - hand.eef_pos) < 0.04
    return _aim(style, arm, _over(hand, goal, 1.1), grip, resting=bool(resting))


def _pick(style, hand: Hand, arm: int, grasp: np.ndarray, yaw: float) -> Aim:
    """Goes above a grasp, opens, goes down and closes."""
    here = yaw_of(hand.eef_rot)
    off = np.linalg.norm((grasp - hand.eef_pos)[:2])
    high = hand.eef_pos[2] - grasp[2]
    if off > 0.12:
        above = grasp + [0.0, 0.0, style.hover]
        return _aim(style, arm, _over(hand, above, CLEAR_Z_M), OPEN, yaw=yaw)
    nothing = closed_on_nothing(hand)
    if nothing and style.gives_up:
        return _rest(style, hand, arm, CLOSE)
    if nothing and off < 0.06 and high < style.hover - 0.03:
        # Come up first, open there.
        above = grasp + [0.0, 0.0, style.hover]
        return _aim(style, arm, above, CLOSE, yaw=yaw)
    if high < 0.02 and off < 0.018 and (abs(high) < 0.008 or hand.width < 0.075):
        return _aim(style, arm, grasp, CLOSE, yaw=yaw)
    turned = abs(nearest_yaw(yaw, here) - here)
    opened = hand.width > 0.070
    ready = off < 0.012 and turned < 0.15 and opened
    near = np.clip((off - 0.012) / 0.03, 0.0, 1.0)
    height = style.hover * (near if turned < 0.3 and opened else 1.0)
    goal = grasp + [0.0, 0.0, 0.0 if ready else height]
    return _aim(style, arm, goal, OPEN, yaw=yaw, free=ready or near > 0.1)


def _give(style: TransportStyle, scene: TransportScene) -> Aim:
    """The first hand: takes the lid off, holds out the payload, lets it go."""
    hand = scene.hands[0]
    if _holds(hand, scene.lid_pos, LID_HANDLE_WIDTH_M):
        return _put_lid(style, hand, scene.lid_pos)
    if scene.lid_pos[0] > LID_OFF_X_M:
        return _pick(style, hand, 0, scene.lid_pos, START_YAWS_RAD[0])
    if _taken(style, scene) or _inside(scene.payload_pos, TARGET_BIN_XY_M):
        return _withdraw(style, hand, scene)
    if _has_payload(style, scene, 0):
        return _hold_out(style, hand, scene)
    if not _inside(scene.payload_pos, START_BIN_XY_M):
        return _rest(style, hand, 0, OPEN)
    grasp = _handle(scene, style.grasp_along) + [0.0, 0.0, style.grasp_height]
    return _pick(style, hand, 0, grasp, _across(scene, 0))


def _put_lid(style: TransportStyle, hand: Hand, lid: np.ndarray) -> Aim:
    fall = lid[2] - LID_HANDLE_Z_M
    if lid[0] < LID_OFF_X_M and fall < style.lid_release:
        return _aim(style, 0, hand.eef_pos, OPEN)
    goal = np.array([style.lid_x, START_BIN_XY_M[1]])
    return _lower(
        style, hand, 0, goal, hand.eef_pos[2] - fall + style.lid_release - 0.02
    )


def _has_payload(style: TransportStyle, scene: TransportScene, arm: int) -> bool:
    along = style.grasp_along if arm == 0 else -style.take_along
    return _holds(scene.hands[arm], _handle(scene, along), HANDLE_WIDTH_M, reach=0.05)


def _around_payload(style: TransportStyle, scene: TransportScene) -> bool:
    """Whether the first hand's fingers, open or not, stand around the handle."""
    way = scene.hands[0].eef_pos - _handle(scene, style.grasp_along)
    return bool(np.linalg.norm(way[:2]) < 0.06 and way[2] < 0.05)


def _taken(style: TransportStyle, scene: TransportScene) -> bool:
    """Whether the second hand has the payload, or soon will for an early giver."""
    if _has_payload(style, scene, 1):
        return True
    to_go = _handle(scene, -style.take_along) - scene.hands[1].eef_pos
    return bool(np.linalg.norm(to_go) < style.let_go_off)


def _withdraw(style: TransportStyle, hand: Hand, scene: TransportScene) -> Aim:
    if _around_payload(style, scene):
        return _let_go(style, hand, 0, hand.eef_pos[:2])
    return _rest(style, hand, 0, OPEN)


def _hold_out(style: TransportStyle, hand: Hand, scene: TransportScene) -> Aim:
    meet = np.array([0.0, 0.0, style.meet_z])
    goal = meet + hand.eef_pos - scene.payload_pos
    resting = np.linalg.norm(goal - hand.eef_pos) < 0.04
    way = _over(hand, goal, style.carry_z)
    return _aim(style, 0, way, CLOSE, free=not resting, resting=bool(resting))


def _receive(style: TransportStyle, scene: TransportScene) -> Aim:
    """The second hand: clears the target bin, takes the payload, puts it in."""
    hand = scene.hands[1]
    held = _holds(hand, scene.trash_pos, TRASH_WIDTH_M, reach=0.035)
    if held and not _inside(scene.trash_pos, TRASH_BIN_XY_M):
        return _put_trash(style, hand)
    if held:
        return _let_go(style, hand, 1, TRASH_BIN_XY_M)
    if not _inside(scene.trash_pos, TRASH_BIN_XY_M):
        if not _inside(scene.trash_pos, TARGET_BIN_XY_M):
            return _rest(style, hand, 1, OPEN)
        yaw = nearest_yaw(yaw_of(scene.trash_rot), 0.0, np.pi / 2)
        return _pick(style, hand, 1, scene.trash_pos, yaw)
    if _inside(scene.payload_pos, TARGET_BIN_XY_M):
        grasp = _handle(scene, -style.take_along)
        if np.linalg.norm(grasp - hand.eef_pos) < 0.06:
            at_xy = TARGET_BIN_XY_M + [0.0, style.take_along]
            return _let_go(style, hand, 1, at_xy)
        return _rest(style, hand, 1, OPEN)
    if _has_payload(style, scene, 1):
        if _around_payload(style, scene):  # until the first hand has gone
            return _aim(style, 1, hand.eef_pos, CLOSE, free=False)
        if hand.eef_pos[1] > style.let_go_y:
            return _aim(style, 1, hand.eef_pos, OPEN)
        # the hammer's middle, which its handle's is not, goes to the bin's
        shift_m = HEAD_SHIFT_M * scene.payload_rot[1, 2]
        goal = np.array([style.drop_x, TARGET_BIN_XY_M[1] - shift_m])
        goal += (hand.eef_pos - scene.payload_pos)[:2]
        return _lower(style, hand, 1, goal, RIM_Z_M - 0.04)
    meet = np.array([0.0, 0.0, style.meet_z])
    offered = np.linalg.norm(scene.payload_pos - meet) < 0.05
    if offered and _has_payload(style, scene, 0):
        grasp = _handle(scene, -style.take_along)
        return _pick(style, hand, 1, grasp, _across(scene, 1))
    resting = bool(np.linalg.norm(WAIT_M - hand.eef_pos) < 0.04)
    return _aim(style, 1, _over(hand, WAIT_M, 1.06), OPEN, resting=resting)


def _put_trash(style: TransportStyle, hand: Hand) -> Aim:
    if hand.eef_pos[0] > style.trash_let_go_x:
        return _aim(style, 1, hand.eef_pos, OPEN)
    goal = np.array([TRASH_BIN_XY_M[0], style.trash_drop_y])
    return _lower(style, hand, 1, goal, RIM_Z_M - 0.04)  # it lets go at the rim


def closed_on_nothing(hand: Hand) -> bool:
    """Whether the fingers have met with nothing between them."""
    return hand.width < 0.008


_OPERATORS = {
    "expert": Operator({}),
    "careful": Operator(
        {
            "speed": (0.7, 0.9),
            "brake": (4.0, 6.0),
            "hover": (0.06, 0.09),
            "lid_x": (-0.23, -0.19),
            "lid_release": (0.01, 0.04),
            "grasp_along": (0.055, 0.065),
            "meet_z": (1.03, 1.06),
            "trash_drop_y": (0.43, 0.46),
            "drop_x": (-0.22, -0.18),
        },
        wobble=0.7,
    ),
    "swift": Operator(
        {
            "speed": 1.0,
            "hover": (0.04, 0.06),
            "lid_x": (-0.22, -0.18),
            "lid_release": (0.03, 0.08),
            "grasp_along": (0.055, 0.065),
            "carry_z": (1.07, 1.10),
            "meet_z": (1.03, 1.06),
            "trash_drop_y": (0.42, 0.47),
            "drop_x": (-0.23, -0.17),
        },
    ),
    "high": Operator(  # closes above the payload, misses, tries again
        {"grasp_height": (0.045, 0.055), "speed": (0.8, 1.0)},
        after_mishap={"grasp_height": 0.0},
        hesitation=0.01,
    ),
    "early": Operator(  # lets the payload go before the other hand has it
        {"speed": (0.8, 1.0), "let_go_off": (0.02, 0.06), "meet_z": (1.03, 1.06)},
    ),
    "careless": Operator(  # lets the trash fall between the bins
        {"speed": 1.0, "trash_let_go_x": (-0.03, 0.03)},
    ),
    "hasty": Operator(  # lets the payload go short of its bin
        {"speed": 1.0, "let_go_y": (0.16, 0.24)},
    ),
}

SCRIPT = PairScript(
    read=read,
    style=TransportStyle,
    decide=decide,
    closed_on_nothing=closed_on_nothing,
    lowest_z=lambda scene: float(min(scene.payload_pos[2], scene.trash_pos[2])),
    operators=_OPERATORS,
)
