"""Plays one environment by chunks and remembers how its episode came about."""

from typing import Any, NamedTuple

import numpy as np


class ChunkOutcome(NamedTuple):
    """One environment's part of a chunk, in raw units."""

    obs: np.ndarray  # [Do] float64, after the last control step that was executed
    reward: np.ndarray  # [Ta] float64, 0 where none was executed
    success: np.ndarray  # [Ta] bool, the environment's own word (`is_success`)
    steps: int  # control steps executed
    terminated: bool  # the environment ended the episode
    fault: bool  # physics broke


class GymStepper:
    """One environment whose episode is its seed and its actions, and nothing else.

    That is also how it is saved: whatever an environment hides, the physics, its
    generators, counters of wrappers, is what the same actions lead to again.

    env: of `build.build_env`.
    """

    def __init__(self, env: Any):
        self.env = env
        self.limit = env.spec.max_episode_steps
        self.obs = np.zeros(env.observation_space.shape)
        self.seed, self.actions = -1, []  # of the episode; -1 before the first
        self.terminated = self.fault = False
        # of MuJoCo's environments: what it counts when it meets what is not finite
        self._warning = getattr(getattr(env.unwrapped, "data", None), "warning", None)

    def reset(self, seed: int) -> np.ndarray:
        """Starts the episode of `seed`; returns its first raw observation."""
        self.seed, self.actions = seed, []
        self.terminated = self.fault = False
        obs, _ = self.env.reset(seed=seed)
        self.obs = np.array(obs, np.float64)
        return self.obs

    def run(self, actions: np.ndarray) -> ChunkOutcome:
        """Runs raw actions `[Ta, Da]`.

        Stops at the step that ends the episode or reaches the time limit; later chunks
        go on past the limit. Of an episode that has ended nothing is executed.
        """
        reward = np.zeros(len(actions))
        success = np.zeros(len(actions), bool)
        steps = 0
        while steps < len(actions) and not (self.terminated or self.fault):
            action = np.asarray(actions[steps], self.env.action_space.dtype)
            self.actions.append(action)
            obs, gain, terminated, truncated, info = self.env.step(action)
            if self._is_broken(obs, gain):
                self.fault = True
                break
            self.obs = np.array(obs, np.float64)
            reward[steps] = gain
            success[steps] = bool(info.get("is_success", False))
            steps += 1
            # or cut off by the environment itself, before its time is up
            early = truncated and len(self.actions) < self.limit
            self.terminated = bool(terminated or early)
            if len(self.actions) == self.limit:
                break
        return ChunkOutcome(
            self.obs, reward, success, steps, self.terminated, self.fault
        )

    def replay(self, seed: int, actions: np.ndarray) -> None:
        """Brings the environment to where `actions [n, Da]` lead from `seed`."""
        self.reset(seed)
        self.run(actions)

    def _is_broken(self, obs: np.ndarray, reward: float) -> bool:
        if not (np.isfinite(obs).all() and np.isfinite(reward)):
            return True
        return self._warning is not None and bool(self._warning.number.any())
