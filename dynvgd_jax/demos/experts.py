"""Scripted experts: which operators exist per task, and how one acts."""

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from dynvgd_jax.demos import can, lift, square
from dynvgd_jax.demos.motion import CLOSE, Aim, Scene, SmoothNoise, read_scene, servo
from dynvgd_jax.errors import UserError

WAYPOINT_NOISE_MEMORY_STEPS = 25.0
HESITATION_STEPS = (4, 12)
DETOUR_STEPS = (3, 8)
DETOUR_SPEED = (0.4, 0.9)

# A number is taken as it is, a pair is a uniform range, a list is a choice.
Spread = float | tuple[float, float] | list[float]


class Operator(NamedTuple):
    """One way to do a task, with the spread between its episodes."""

    style: dict[str, Spread]  # fields of the task's style; others keep the default
    # These change once it has grasped nothing.
    after_mishap: Mapping[str, Spread] = MappingProxyType({})
    wobble: float = 1.0  # times the configured waypoint noise
    hesitation: float = 0.0  # chance per control step to pause for a moment
    detour: float = 0.006  # chance per control step to stray for a moment


class Script(NamedTuple):
    """What makes up a task's experts."""

    style: Callable[..., Any]
    decide: Callable[[Any, Scene], Aim]
    closed_on_nothing: Callable[[Scene], bool]
    operators: dict[str, Operator]


# "expert" is the noise-free measure of a script. The others are the operators of the
# demonstrations. Good and bad ones share the states before the bad choice, so that a
# policy trained on the mixture holds both choices where a critic can pick one.
OPERATORS: dict[str, dict[str, Operator]] = {
    "can": {
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
    },
    "square": {
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
        "high": Operator(  # closes above the handle, misses
            {"grasp_height": (0.018, 0.026), "gives_up": [0.0, 1.0]},
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
    },
    "lift": {
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
            {"grasp_height": (0.024, 0.034), "gives_up": [0.0, 1.0, 1.0]},
            after_mishap={"grasp_height": 0.0},
        ),
        "beside": Operator(  # closes past the cube's edge
            {"grasp_side": [-0.028, 0.028], "gives_up": [0.0, 1.0, 1.0]},
            after_mishap={"grasp_side": 0.0},
            hesitation=0.01,
        ),
    },
}

_SCRIPTS = {
    "can": (can.CanStyle, can.decide, can.closed_on_nothing),
    "square": (square.SquareStyle, square.decide, square.closed_on_nothing),
    "lift": (lift.LiftStyle, lift.decide, lift.closed_on_nothing),
}


def get_script(task_name: str) -> Script:
    """The scripted experts of a task; UserError if it has none."""
    if task_name not in _SCRIPTS:
        near = difflib.get_close_matches(task_name, _SCRIPTS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(
            f"found task {task_name!r}, expected one with scripted experts: "
            f"{', '.join(_SCRIPTS)}{hint}"
        )
    return Script(*_SCRIPTS[task_name], OPERATORS[task_name])


def check_operator(task_name: str, operator: str) -> None:
    """Raises UserError unless the task has this operator."""
    known = get_script(task_name).operators
    if operator not in known:
        raise UserError(
            f"found operator {operator!r}, expected one of {', '.join(known)} "
            f"for task {task_name!r}"
        )


def draw_style(spreads: Mapping[str, Spread], rng: np.random.Generator) -> dict:
    """One value per field, drawn in the order of the table."""
    values = {}
    for field, spread in spreads.items():
        if isinstance(spread, list):
            values[field] = float(rng.choice(spread))
        elif isinstance(spread, tuple):
            values[field] = float(rng.uniform(*spread))
        else:
            values[field] = float(spread)
    return values


class Expert:
    """One operator in one episode."""

    def __init__(
        self,
        script: Script,
        operator: Operator,
        rng: np.random.Generator,
        waypoint_noise_m: float,
        action_noise: float,
    ):
        self._script, self._operator, self._rng = script, operator, rng
        self._style = script.style(**draw_style(operator.style, rng))
        self._waypoint_noise_m = waypoint_noise_m * operator.wobble
        self._action_noise = action_noise
        self._noisy = waypoint_noise_m > 0 or action_noise > 0
        self._noise = SmoothNoise(rng, 3, WAYPOINT_NOISE_MEMORY_STEPS)
        self._pause_steps = self._detour_steps = 0
        self._detour = np.zeros(3)
        self._grip = -1.0
        self.resting = False  # nothing is left to do, succeeded or not

    def act(self, env) -> np.ndarray:
        """The action `[7]` in [-1, 1] for a robosuite environment's present state."""
        scene = read_scene(env)
        nothing = self._grip == CLOSE and self._script.closed_on_nothing(scene)
        if nothing and not self._style.gives_up and self._operator.after_mishap:
            changes = draw_style(self._operator.after_mishap, self._rng)
            self._style = self._style._replace(**changes)
        aim = self._script.decide(self._style, scene)
        aim = self._hesitate(aim, scene)
        wobble = self._waypoint_noise_m * aim.noise * self._noise.draw()
        action = servo(scene, aim._replace(pos=aim.pos + wobble))
        self._stray(action, aim)
        action[:6] += self._action_noise * self._rng.standard_normal(6)
        self._grip, self.resting = aim.grip, aim.resting
        return np.clip(action, -1.0, 1.0)

    def _stray(self, action: np.ndarray, aim: Aim) -> None:
        """Leads the hand off its way at times: the data shows how to come back."""
        if self._detour_steps:
            self._detour_steps -= 1
            action[:3] = self._detour
            return
        free = self._noisy and aim.noise > 0.1 and not aim.resting
        if free and self._rng.random() < self._operator.detour:
            self._detour_steps = int(self._rng.integers(*DETOUR_STEPS))
            direction = self._rng.standard_normal(3) * [1.0, 1.0, 0.5]
            direction /= np.linalg.norm(direction)
            self._detour = direction * self._rng.uniform(*DETOUR_SPEED)

    def _hesitate(self, aim: Aim, scene: Scene) -> Aim:
        if self._pause_steps == 0:
            if self._rng.random() < self._operator.hesitation:
                self._pause_steps = int(self._rng.integers(*HESITATION_STEPS))
            return aim
        self._pause_steps -= 1
        return aim._replace(pos=scene.eef_pos, grip=self._grip)


def make_expert(
    task_name: str,
    operator: str,
    rng: np.random.Generator,
    *,
    waypoint_noise_m: float = 0.0,
    action_noise: float = 0.0,
) -> Expert:
    """An expert for one episode.

    Args:
      task_name: "lift", "can" or "square".
      operator: a key of `OPERATORS[task_name]`; "expert" has the default style.
      rng: drawn from for style and noise; the episode's own stream.
      waypoint_noise_m: standard deviation of the smooth noise on waypoints, m.
      action_noise: standard deviation of the white noise on the six pose actions.

    Raises:
      UserError: the task has no experts, or not this operator.
    """
    check_operator(task_name, operator)
    script = get_script(task_name)
    return Expert(
        script, script.operators[operator], rng, waypoint_noise_m, action_noise
    )
