"""How an operator's hand moves: towards its aims, with wobble, pauses and detours."""

import numpy as np

from dynvgd_jax.demos.motion import OPEN, Aim, Hand, Scene, SmoothNoise, servo
from dynvgd_jax.demos.operators import Operator

WAYPOINT_NOISE_MEMORY_STEPS = 25.0
STEADY_WITHIN_M = 0.15  # of its aim the hand becomes steady
HESITATION_STEPS = (4, 12)
DETOUR_STEPS = (3, 8)
DETOUR_SPEED = (0.4, 0.9)


class MovingHand:
    """One hand of one operator in one episode.

    Args:
      operator: whose wobble, hesitation and detours these are.
      rng: the episode's own stream.
      waypoint_noise_m: standard deviation of the smooth noise on waypoints, m, before
        the operator's factor.
      action_noise: standard deviation of the white noise on the six pose actions.
    """

    def __init__(
        self,
        operator: Operator,
        rng: np.random.Generator,
        waypoint_noise_m: float,
        action_noise: float,
    ):
        self._operator, self._rng = operator, rng
        self._waypoint_noise_m = waypoint_noise_m * operator.wobble
        self._action_noise = action_noise
        self._noisy = waypoint_noise_m > 0 or action_noise > 0
        self._noise = SmoothNoise(rng, 3, WAYPOINT_NOISE_MEMORY_STEPS)
        self._pause_steps = self._detour_steps = 0
        self._detour = np.zeros(3)
        self.grip = OPEN  # as last commanded

    def move(self, seen: Hand | Scene, aim: Aim) -> np.ndarray:
        """The action `[7]` in [-1, 1] towards an aim, with the operator's noise."""
        aim = self._hesitate(aim, seen)
        action = servo(seen, aim._replace(pos=aim.pos + self._wobble(aim, seen)))
        self._stray(action, aim)
        action[:6] += self._action_noise * self._rng.standard_normal(6)
        self.grip = aim.grip
        return np.clip(action, -1.0, 1.0)

    def _wobble(self, aim: Aim, seen: Hand | Scene) -> np.ndarray:
        """Smooth noise that fades as the hand comes near.

        Noise that stayed would put the hand beside its aim and keep it there: whoever
        learns from it learns not to correct.
        """
        way = np.linalg.norm(aim.pos - seen.eef_pos) / STEADY_WITHIN_M
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

    def _hesitate(self, aim: Aim, seen: Hand | Scene) -> Aim:
        if self._pause_steps == 0:
            if self._rng.random() < self._operator.hesitation:
                self._pause_steps = int(self._rng.integers(*HESITATION_STEPS))
            return aim
        self._pause_steps -= 1
        return aim._replace(pos=seen.eef_pos, grip=self.grip)
