"""A small analytic task: two roads, of which the frozen policy can finish one.

The first chunk turns left or right. On either road stands a gate, opened by a chunk of
the lever's sign. On the good road the policy pulls that way; in the dead end it always
pulls the other way, though an open gate would bring twice as much there. So a road is
worth what the policy proposes at its gate, and not what other observations' proposals
would bring.
"""

import numpy as np

from dynvgd_jax.core.types import ChunkResult
from dynvgd_jax.envs.base import EnvSizes
from tests.support.linear_policy import save_linear_policy
from tests.support.reach import LazyEnv

CHUNK = 4
GOOD, DEAD_END = 0.5, 1.0  # reward of a control step behind an open gate


def reward_of(lever, pulled, chunk):
    """Of every control step at a gate; `pulled` is where the policy pulls."""
    opened = np.sign(chunk.mean(axis=(1, 2))) == lever
    return opened * np.where(pulled == lever, GOOD, DEAD_END)


class ForkEnv(LazyEnv):
    """Observation (side, 0, 0, 0) at the fork, (0, 1, lever, pull) at a gate.

    The good road is the one to the `side`; all four are -1 or 1.
    """

    sizes = EnvSizes(obs_dim=4, action_dim=1, chunk_len=CHUNK, max_episode_env_steps=8)

    def __init__(self, num_envs):
        self.num_envs = num_envs
        self.obs = np.zeros((num_envs, 4), np.float32)
        self.lever = np.zeros(num_envs)

    def reset(self, indices, seeds):
        for index, seed in zip(indices, seeds, strict=True):
            rng = np.random.default_rng(int(seed))
            side, self.lever[index] = rng.choice([-1, 1], 2)
            self.obs[index] = (side, 0, 0, 0)
        return self.obs[indices].copy()

    def step(self, indices, actions):
        at_gate, lever = self.obs[indices, 1] == 1, self.lever[indices]
        reward = reward_of(lever, self.obs[indices, 3], actions) * at_gate
        turned = np.sign(actions.mean(axis=(1, 2)))
        pull = np.where(turned == self.obs[indices, 0], lever, -lever)
        gate = np.stack([0 * lever, 1 + 0 * lever, lever, pull], axis=1)
        self.obs[indices] = np.where(at_gate[:, None], self.obs[indices], gate)
        reward = np.repeat(reward[:, None], CHUNK, axis=1).astype(np.float32)
        return ChunkResult(
            obs=self.obs[indices].copy(),
            reward=reward,
            success=reward > 0,
            fault=np.zeros(len(indices), bool),
        )

    def get_state(self):
        return {"obs": self.obs.copy(), "lever": self.lever.copy()}

    def set_state(self, state):
        self.obs[:], self.lever[:] = state["obs"], state["lever"]

    def close(self):
        pass


def save_policy(folder):
    """Turns as its noise says, and pulls where the observation says."""
    obs_gain = np.zeros((4, CHUNK))
    obs_gain[3] = 2.0
    return save_linear_policy(folder, 0.5, obs_gain, CHUNK)


def save_pulls(path, count=500):
    """What pulls of either sign bring at any gate: the critics know them all."""
    rng = np.random.default_rng(0)
    lever, pull, sign = rng.choice([-1.0, 1.0], (3, count))
    obs = np.stack([0 * lever, 1 + 0 * lever, lever, pull], axis=1)
    chunk = sign[:, None, None] * rng.uniform(0.2, 1, (count, CHUNK, 1))
    np.savez(
        path,
        states=obs,
        states_next=obs,
        actions=chunk,
        rewards=CHUNK * reward_of(lever, pull, chunk),
        terminals=np.ones(count, bool),
    )
    return path
