"""Scripted experts: which tasks have some, and how one acts."""

import difflib
from typing import Any

import numpy as np

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.demos import can, lift, square, transport
from dynvgd_jax.demos.hand import MovingHand
from dynvgd_jax.demos.motion import CLOSE, read_scene
from dynvgd_jax.demos.operators import Operator, PairScript, Script, draw_style
from dynvgd_jax.envs.base import own_simulator

SCRIPTS: dict[str, Script | PairScript] = {
    "can": can.SCRIPT,
    "square": square.SCRIPT,
    "lift": lift.SCRIPT,
    "transport": transport.SCRIPT,
}


def get_script(task_name: str) -> Script | PairScript:
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
    """One operator in one episode, with one hand."""

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
        self._hand = MovingHand(operator, rng, waypoint_noise_m, action_noise)
        self.resting = False  # nothing is left to do, succeeded or not
        self.object_z = np.inf  # m, when it last looked

    def act(self, env) -> np.ndarray:
        """The action `[7]` in [-1, 1] for a robosuite environment's present state."""
        scene = read_scene(env, self._script.object_body(env))
        if self._hand.grip == CLOSE and self._script.closed_on_nothing(scene):
            self._style = after_mishap(self._style, self._operator, self._rng)
        aim = self._script.decide(self._style, scene)
        action = self._hand.move(scene, aim)
        self.resting, self.object_z = aim.resting, float(scene.object_pos[2])
        return action


class PairExpert:
    """One operator in one episode, with two hands that see each other."""

    def __init__(
        self,
        script: PairScript,
        operator: Operator,
        rng: np.random.Generator,
        waypoint_noise_m: float,
        action_noise: float,
    ):
        self._script, self._operator, self._rng = script, operator, rng
        self._style = script.style(**draw_style(operator.style, rng))
        noise = waypoint_noise_m, action_noise
        self._hands = [MovingHand(operator, rng, *noise) for _ in range(2)]
        self.resting = False  # neither hand has anything left to do
        self.object_z = np.inf  # m, the lowest object, when it last looked

    def act(self, env) -> np.ndarray:
        """The action `[14]` in [-1, 1] for a robosuite environment's present state."""
        scene = self._script.read(env)
        pairs = list(zip(self._hands, scene.hands, strict=True))
        for hand, seen in pairs:
            if hand.grip == CLOSE and self._script.closed_on_nothing(seen):
                self._style = after_mishap(self._style, self._operator, self._rng)
        aims = self._script.decide(self._style, scene)
        moves = [hand.move(seen, aim) for (hand, seen), aim in zip(pairs, aims)]
        self.resting = all(aim.resting for aim in aims)
        self.object_z = self._script.lowest_z(scene)
        return np.concatenate(moves)


def after_mishap(style: Any, operator: Operator, rng: np.random.Generator) -> Any:
    """The style of an operator whose fingers have met without the object."""
    if style.gives_up or not operator.after_mishap:
        return style
    return style._replace(**draw_style(operator.after_mishap, rng))


def make_expert(
    task_name: str,
    operator: str,
    rng: np.random.Generator,
    *,
    waypoint_noise_m: float = 0.0,
    action_noise: float = 0.0,
) -> Expert | PairExpert:
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
    kind = PairExpert if isinstance(script, PairScript) else Expert
    return kind(script, script.operators[operator], rng, waypoint_noise_m, action_noise)
