"""An environment whose episodes follow from their seeds alone, and which keeps a diary.

Actions change nothing, so that rewards, successes and lengths of every episode can be
worked out by hand from its seed; what was acted stands in the diary. One episode in
four never succeeds, one does so at a single control step, one throughout its first
chunk, one throughout its last: half of them as published, a whole chunk.
"""

from typing import NamedTuple

import numpy as np

from dynvgd_jax.core.types import ChunkResult
from dynvgd_jax.envs.base import EnvSizes
from tests.support.reach import LazyEnv

NEVER, ONE_STEP, FIRST_CHUNK, LAST_CHUNK = range(4)  # an episode's seed modulo 4


def success_of(seed, chunks, chunk_len=4):
    """Whether each control step succeeds, `[chunks, Ta]`."""
    success = np.zeros((chunks, chunk_len), bool)
    kind = int(seed) % 4
    if kind == ONE_STEP:
        success[0, 1] = True
    elif kind != NEVER:
        success[0 if kind == FIRST_CHUNK else -1] = True
    return success


def reward_of(seed, chunks, chunk_len=4):
    """The reward of each control step, `[chunks, Ta]` float32, in [0, 1)."""
    rng = np.random.default_rng([int(seed), 1])
    return rng.random((chunks, chunk_len)).astype(np.float32)


class Reset(NamedTuple):
    """One line of the diary."""

    after: int  # steps of these environments before it
    index: int  # of the environment
    seed: int


class Step(NamedTuple):
    """One line of the diary, `n` environments."""

    indices: np.ndarray  # [n]
    actions: np.ndarray  # [n, Ta, Da]
    seeds: np.ndarray  # [n] of their episodes
    chunks: np.ndarray  # [n] number of the chunk in its episode


class ScriptedEnv(LazyEnv):
    """Episodes of `limit` chunks; `resets` and `played` are the diary."""

    limit = 2
    sizes = EnvSizes(4, 2, 4, max_episode_env_steps=limit * 4)

    def __init__(self, num_envs):
        self.num_envs = num_envs
        self.seed = np.zeros(num_envs, np.int64)
        self.chunk = np.zeros(num_envs, np.int64)
        self.resets: list[Reset] = []
        self.played: list[Step] = []

    def _obs(self, indices):
        return np.stack([self.obs_of(self.seed[i], self.chunk[i]) for i in indices])

    def obs_of(self, seed, chunk):
        rng = np.random.default_rng([int(seed), 2, int(chunk)])
        return rng.uniform(-1, 1, self.sizes.obs_dim).astype(np.float32)

    def reward_of(self, seed, chunk):
        return reward_of(seed, self.limit, self.sizes.chunk_len)[chunk]

    def reset(self, indices, seeds):
        for index, seed in zip(indices, seeds, strict=True):
            self.resets.append(Reset(len(self.played), int(index), int(seed)))
        self.seed[indices], self.chunk[indices] = seeds, 0
        return self._obs(indices)

    def step(self, indices, actions):
        seeds, chunks = self.seed[indices], self.chunk[indices]  # copies
        self.played.append(Step(np.array(indices), np.array(actions), seeds, chunks))
        places = list(zip(seeds, chunks, strict=True))
        self.chunk[indices] += 1
        return ChunkResult(
            obs=self._obs(indices),
            reward=np.stack([self.reward_of(*place) for place in places]),
            success=np.stack([success_of(s, self.limit)[c] for s, c in places]),
            fault=np.zeros(len(indices), bool),
        )

    def get_state(self):
        return {"seed": self.seed.copy(), "chunk": self.chunk.copy()}

    def set_state(self, state):
        self.seed[:], self.chunk[:] = state["seed"], state["chunk"]

    def close(self):
        pass


def recording(kind=ScriptedEnv):
    """Returns `make_env` and the list of all environments that it will have made."""
    made = []

    def make_env(num_envs):
        made.append(kind(num_envs))
        return made[-1]

    return make_env, made
