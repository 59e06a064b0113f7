"""Scripted operators for Lift: grasp the cube and hold it up."""

from typing import NamedTuple

import numpy as np

from dynvgd_jax.demos.motion import CLOSE, OPEN, Aim, Scene, nearest_yaw, wrap, yaw_of
from dynvgd_jax.demos.operators import Operator, Script

CUBE_WIDTH_M = 0.042
START_YAW_RAD = np.pi / 2


class LiftStyle(NamedTuple):
    """How one operator does one episode."""

    speed: float = 1.0  # largest position action
    brake: float = 10.0  # 1/m, how late it slows down before an aim
    grasp_yaw: float = 0.0  # rad off the cube's nearest faces
    grasp_height: float = 0.0  # m above the cube's centre
    grasp_side: float = 0.0  # m off the cube's centre, across the opening axis
    hover: float = 0.08  # m above the grasp, before going down
    lift_z: float = 0.95  # m, height of the gripper at the end
    gives_up: float = 0.0  # 1: rests after a mishap instead of trying again


def decide(style: LiftStyle, scene: Scene) -> Aim:
    """The next aim; depends on the scene alone, so that it can be learned."""
    eef, cube = scene.eef_pos, scene.object_pos
    here = yaw_of(scene.eef_rot)
    between = np.linalg.norm(cube - eef) < 0.03
    yaw = nearest_yaw(yaw_of(scene.object_rot), START_YAW_RAD, np.pi / 2)
    yaw += style.grasp_yaw
    side = style.grasp_side * np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    grasp = cube + side + [0.0, 0.0, style.grasp_height]
    off = np.linalg.norm((grasp - eef)[:2])
    high = eef[2] - grasp[2]
    if between and 0.03 < scene.width < CUBE_WIDTH_M + 0.004:
        top = np.array([eef[0], eef[1], style.lift_z])
        resting = abs(eef[2] - style.lift_z) < 0.02
        return Aim(top, here, CLOSE, style.speed, style.brake, resting=resting)
    if closed_on_nothing(scene) and off < 0.06:
        if style.gives_up:
            up = np.array([eef[0], eef[1], style.lift_z])
            resting = abs(eef[2] - style.lift_z) < 0.02
            return Aim(up, here, CLOSE, style.speed, style.brake, resting=resting)
        if high < style.hover - 0.03:
            up = np.array([grasp[0], grasp[1], grasp[2] + style.hover])
            return Aim(up, yaw, CLOSE, style.speed, style.brake)
    if high < 0.02 and off < 0.012 and (abs(high) < 0.006 or scene.width < 0.075):
        return Aim(grasp, yaw, CLOSE, style.speed, style.brake)
    turned, opened = abs(wrap(yaw - here)), scene.width > 0.070
    ready = off < 0.01 and turned < 0.15 and opened
    near = np.clip((off - 0.01) / 0.03, 0.0, 1.0)
    height = style.hover * (near if turned < 0.3 and opened else 1.0)
    goal = grasp + [0.0, 0.0, 0.0 if ready else height]
    return Aim(goal, yaw, OPEN, style.speed, style.brake, free=ready or near > 0.1)


def closed_on_nothing(scene: Scene) -> bool:
    """Whether the fingers have met without the cube between them."""
    return scene.width < 0.025


_OPERATORS = {
    "expert": Operator({}),
    "careful": Operator(
        {
            "speed": (0.5, 0.8),
            "brake": (4.0, 6.0),
            "grasp_yaw": (-0.1, 0.1),
            "hover": (0.06, 0.09),
            "lift_z": (0.92, 1.0),
        },
        wobble=0.7,
    ),
    "swift": Operator(
        {
            "speed": 1.0,
            "hover": (0.04, 0.06),
            "grasp_yaw": (-0.2, 0.2),
            "lift_z": (0.9, 0.98),
        },
    ),
    "high": Operator(  # closes above the cube
        {"grasp_height": (0.028, 0.038), "gives_up": [0.0, 1.0, 1.0, 1.0, 1.0]},
        after_mishap={"grasp_height": 0.0},
    ),
    "beside": Operator(  # closes past the cube's edge
        {"grasp_side": [-0.033, 0.033], "gives_up": [0.0, 1.0, 1.0, 1.0, 1.0]},
        after_mishap={"grasp_side": 0.0},
        hesitation=0.01,
    ),
}

SCRIPT = Script(
    object_body=lambda env: env.cube.root_body,
    style=LiftStyle,
    decide=decide,
    closed_on_nothing=closed_on_nothing,
    operators=_OPERATORS,
)
