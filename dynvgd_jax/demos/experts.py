"""Scripted experts: which tasks have some, and how one acts."""

import difflib

import numpy as np

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.demos import can, lift, square
from dynvgd_jax.demos.motion import CLOSE, Aim, Scene, SmoothNoise, read_scene, servo
from dynvgd_jax.demos.operators import Operator, Script, draw_style
from dynvgd_jax.envs.base import own_simulator

WAYPOINT_NOISE_MEMORY_STEPS = 25.0
STEADY_WITHIN_M = 0.15  # of its aim the hand becomes steady
HESITATION_STEPS = (4, 12)
DETOUR_STEPS = (3, 8)
DETOUR_SPEED = (0.4, 0.9)


SCRIPTS: dict[str, Script] = {
    "can": can.SCRIPT,
    "square": square.SCRIPT,
    "lift": lift.SCRIPT,
}


def get_script(task_name: str) -> Script:
    """The scripted experts of a task; UserError if it has none.

    Those of a task of a user's, MODULE:NAME, stand in `SCRIPTS` of its module.
    """
    own, name = own_simulator(task_name), task_name.rpartition(":")[2]
    if own is not None and name in getattr(own, "SCRIPTS", {}):
        return own.SCRIPTS[name]
    if task_name not in SCRIPTS:
        near = difflib.get_close_matches(task_name, SCRIPTS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(
            f"found task {task_name!r}, expected one with scripted experts: "
            f"{', '.join(SCRIPTS)}{hint}"
        )
    return SCRIPTS[task_name]


def check_operator(task_name: str, operator: str) -> None:
    """Raises UserError unless the task has this operator."""
    known = get_script(task_name).operators
    if operator not in known:
        raise UserError(
            f"found operator {operator!r}, expected one of {', '.join(known)} "
            f"for task {task_name!r}"
        )


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
        self.object_z = np.inf  # m, when it last looked

    def act(self, env) -> np.ndarray:
        """The action `[7]` in [-1, 1] for a robosuite environment's present state."""
        scene = read_scene(env, self._script.object_body(env))
        nothing = self._grip == CLOSE and self._script.closed_on_nothing(scene)
        if nothing and not self._style.gives_up and self._operator.after_mishap:
            changes = draw_style(self._operator.after_mishap, self._rng)
            self._style = self._style._replace(**changes)
        aim = self._script.decide(self._style, scene)
        aim = self._hesitate(aim, scene)
        action = servo(scene, aim._replace(pos=aim.pos + self._wobble(aim, scene)))
        self._stray(action, aim)
        action[:6] += self._action_noise * self._rng.standard_normal(6)
        self._grip, self.resting = aim.grip, aim.resting
        self.object_z = float(scene.object_pos[2])
        return np.clip(action, -1.0, 1.0)

    def _wobble(self, aim: Aim, scene: Scene) -> np.ndarray:
        """Smooth noise that fades as the hand comes near.

        Noise that stayed would put the hand beside its aim and keep it there: whoever
        learns from it learns not to correct.
        """
        way = np.linalg.norm(aim.pos - scene.eef_pos) / STEADY_WITHIN_M
        return self._waypoint_noise_m * min(way, 1.0) ** 2 * self._noise.draw()

    def _stray(self, action: np.ndarray, aim: Aim) -> None:
        """Leads the hand off its way at times: the data shows how to come back."""
        if self._detour_steps:
            self._detour_steps -= 1
            action[:3] = self._detour
            return
        may_stray = self._noisy and aim.free and not aim.resting
        if may_stray and self._rng.random() < self._operator.detour:
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
      task_name: a key of `SCRIPTS`.
      operator: one of the script's; "expert" has the default style.
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
