"""A simulator of one's own: points that are pushed to a goal, in NumPy; docs/own.md."""

import numpy as np

from dynvgd_jax.core.normalize import normalize_obs, unnormalize_action
from dynvgd_jax.core.types import ChunkResult
from dynvgd_jax.envs.base import EnvSizes

FIELDS = {}  # rules of what it reads of `config.env`: nothing
SPEED, RADIUS = 0.1, 0.1  # units per control step; of the goal


def task_names():
    """Returns what may stand behind the colon of MODULE:NAME."""
    return ("reach",)


def make_env(config, normalization, num_envs):
    """Returns the environments of a run; `config.task` says which task is meant."""
    return PointMasses(normalization, num_envs)


class PointMasses:
    """Observation: the point and the way to its goal; action: a direction."""

    sizes = EnvSizes(obs_dim=4, action_dim=2, chunk_len=4, max_episode_env_steps=48)

    def __init__(self, normalization, num_envs):
        self.num_envs, self.normalization = num_envs, normalization
        self.state, self.results = np.zeros((num_envs, 4)), []  # the point, the way

    def reset(self, indices, seeds):
        for index, seed in zip(indices, seeds):  # an episode depends on its seed alone
            self.state[index] = np.random.default_rng(int(seed)).uniform(-1, 1, 4)
        return normalize_obs(self.normalization, self.state[indices])

    def step(self, indices, actions):
        moves = SPEED * np.clip(unnormalize_action(self.normalization, actions), -1, 1)
        success = np.zeros(moves.shape[:2], bool)
        for t in range(moves.shape[1]):
            self.state[indices] += np.hstack([moves[:, t], -moves[:, t]])
            success[:, t] = np.linalg.norm(self.state[indices, 2:], axis=1) < RADIUS
        obs = normalize_obs(self.normalization, self.state[indices])
        broken = np.zeros(len(indices), bool)
        return ChunkResult(obs, success.astype(np.float32), success, broken)

    def step_async(self, indices, actions):
        self.results.append(self.step(indices, actions))

    def step_wait(self):
        return self.results.pop(0)

    def get_state(self):  # with this a run goes on from its checkpoints
        return {"state": self.state.copy()}

    def set_state(self, state):
        self.state[:] = state["state"]

    def close(self): ...
