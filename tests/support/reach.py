"""A small analytic task: move a point in the plane to a goal, by action chunks."""

from collections.abc import Callable

import numpy as np

from dynvgd_jax.core.types import ChunkResult
from dynvgd_jax.envs.base import EnvSizes

STEP = 0.1  # distance per control step at full speed
SUCCESS_RADIUS = 0.15


class LazyEnv:
    """Steps when it is waited for."""

    def step_async(self, indices, actions):
        self.started = indices, actions

    def step_wait(self):
        return self.step(*self.started)


class ReachEnv(LazyEnv):
    """`num_envs` points; observation (position, goal), actions in [-1, 1]^2.

    The reward of a control step is 1 minus the distance to the goal (at least 0).
    """

    sizes = EnvSizes(obs_dim=4, action_dim=2, chunk_len=4, max_episode_env_steps=32)

    def __init__(self, num_envs: int):
        self.num_envs = num_envs
        self.position = np.zeros((num_envs, 2))
        self.goal = np.zeros((num_envs, 2))

    def _obs(self, indices):
        parts = (self.position[indices], self.goal[indices])
        return np.concatenate(parts, 1).astype(np.float32)

    def reset(self, indices, seeds):
        for index, seed in zip(indices, seeds, strict=True):
            rng = np.random.default_rng(int(seed))
            self.position[index] = rng.uniform(-0.2, 0.2, 2)
            angle = rng.uniform(0, 2 * np.pi)
            self.goal[index] = 0.8 * np.array([np.cos(angle), np.sin(angle)])
        return self._obs(indices)

    def step(self, indices, actions):
        rewards, successes = [], []
        for action in np.clip(actions, -1, 1).swapaxes(0, 1):
            moved = self.position[indices] + STEP * action
            self.position[indices] = np.clip(moved, -1, 1)
            offset = self.position[indices] - self.goal[indices]
            distance = np.linalg.norm(offset, axis=1)
            rewards.append(np.maximum(1 - distance, 0))
            successes.append(distance < SUCCESS_RADIUS)
        return ChunkResult(
            obs=self._obs(indices),
            reward=np.stack(rewards, 1).astype(np.float32),
            success=np.stack(successes, 1),
            fault=np.zeros(len(indices), bool),
        )

    def get_state(self):
        return {"position": self.position.copy(), "goal": self.goal.copy()}

    def set_state(self, state):
        self.position[:], self.goal[:] = state["position"], state["goal"]

    def close(self):
        pass


class PowerCutError(Exception):
    """What breaks a run off."""


def acting_at(actions: dict[int, Callable[[], None]]):
    """Environments that do something before certain steps, counted over all of them."""
    steps = 0

    class Acting(ReachEnv):
        def step(self, indices, chunk):
            nonlocal steps
            steps += 1
            if steps in actions:
                actions[steps]()
            return super().step(indices, chunk)

    return Acting


def breaking(after_steps: int):
    """Environments of which one breaks off the run after so many chunks."""

    def cut():
        raise PowerCutError

    return acting_at({after_steps + 1: cut})


def poor_demonstrations(num_episodes: int, seed: int):
    """Returns (obs, actions, lengths) of an operator who often goes the wrong way.

    At every chunk the operator makes for the goal or, as often, turns off by a right
    angle to either side: good and bad modes in the same state.
    """
    rng = np.random.default_rng(seed)
    env = ReachEnv(num_episodes)
    everyone = np.arange(num_episodes)
    obs = env.reset(everyone, everyone + 1000 * seed)
    observations, actions = [], []
    for _ in range(env.sizes.max_episode_env_steps // env.sizes.chunk_len):
        turn = rng.choice([0.0, np.pi / 2, -np.pi / 2], num_episodes, p=[0.4, 0.3, 0.3])
        for _ in range(env.sizes.chunk_len):
            way = obs[:, 2:] - obs[:, :2]
            way = way / np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 0.2)
            cos, sin = np.cos(turn), np.sin(turn)
            turned = np.stack(
                [cos * way[:, 0] - sin * way[:, 1], sin * way[:, 0] + cos * way[:, 1]],
                1,
            )
            action = np.clip(turned + rng.normal(0, 0.1, turned.shape), -1, 1)
            observations.append(obs)
            actions.append(action.astype(np.float32))
            obs = env.step(everyone, action[:, None]).obs
    lengths = np.full(num_episodes, len(actions))
    # [time, episode, ...] -> episodes one after the other
    stack = lambda rows: np.stack(rows, 1).reshape(-1, rows[0].shape[1])  # noqa: E731
    return stack(observations), stack(actions), lengths
