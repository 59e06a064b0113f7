"""A task whose values are known in closed form: push a point towards the origin.

Chunk actions `a_1 .. a_H` move the point, `x_j = x + STEP (a_1 + .. + a_j)`, and each
control step costs `|x_j|^2`. The policy is linear, `a_j = -GAIN x + SIGMA noise_j`, so
that the value of x with n chunks to go is `-(p_n |x|^2 + c_n)`; `coefficients` has the
recursion.
"""

import numpy as np

from dynvgd_jax.audit.records import Judgement, Subject
from dynvgd_jax.core.types import ChunkResult
from dynvgd_jax.envs.base import EnvSizes

DIM, CHUNK_LEN, CHUNKS = 2, 3, 6
STEP, GAIN, SIGMA, GAMMA = 0.1, 0.5, 0.15, 0.9


class PushEnv:
    """`num_envs` points; the observation is (position, chunks to go)."""

    # One control step short of whole chunks: the last chunk runs past the limit.
    sizes = EnvSizes(DIM + 1, DIM, CHUNK_LEN, CHUNKS * CHUNK_LEN - 1)

    def __init__(self, num_envs):
        self.num_envs = num_envs
        self.x = np.zeros((num_envs, DIM))
        self.to_go = np.zeros(num_envs, int)

    def _obs(self, indices):
        parts = (self.x[indices], self.to_go[indices, None])
        return np.concatenate(parts, 1).astype(np.float32)

    def reset(self, indices, seeds):
        for index, seed in zip(indices, seeds, strict=True):
            self.x[index] = np.random.default_rng(int(seed)).uniform(-1, 1, DIM)
        self.to_go[indices] = CHUNKS
        return self._obs(indices)

    def step(self, indices, actions):
        assert (self.to_go[indices] > 0).all()  # nobody plays past the limit
        rewards = []
        for action in np.asarray(actions, np.float64).swapaxes(0, 1):
            self.x[indices] += STEP * action
            rewards.append(-np.sum(np.square(self.x[indices]), axis=1))
        self.to_go[indices] -= 1
        return ChunkResult(
            obs=self._obs(indices),
            reward=np.stack(rewards, 1).astype(np.float32),
            success=np.zeros((len(indices), CHUNK_LEN), bool),
            fault=np.zeros(len(indices), bool),
        )

    def get_state(self):
        return {"x": self.x.copy(), "to_go": self.to_go.copy()}

    def set_state(self, state):
        self.x[:], self.to_go[:] = state["x"], state["to_go"]

    def close(self):
        pass


def coefficients():
    """Returns p and c by chunks to go, `[CHUNKS + 1]` each.

    E|x_j|^2 = (1 - STEP GAIN j)^2 |x|^2 + j STEP^2 SIGMA^2 DIM, and the point that the
    chunk leaves is the case j = CHUNK_LEN.
    """
    j = np.arange(1, CHUNK_LEN + 1)
    shrink, noise = np.square(1 - STEP * GAIN * j), j * (STEP * SIGMA) ** 2 * DIM
    p, c = [0.0], [0.0]
    for _ in range(CHUNKS):
        p_next, c_next = p[-1], c[-1]
        p.append(shrink.sum() + GAMMA * p_next * shrink[-1])
        c.append(noise.sum() + GAMMA * (p_next * noise[-1] + c_next))
    return np.array(p), np.array(c)


def exact_q(obs, chunk):
    """Returns Q `[B]` of executing `chunk [B, Ta, Da]`, then the policy."""
    p, c = (table[obs[:, DIM].astype(int) - 1] for table in coefficients())
    x = obs[:, None, :DIM] + STEP * np.cumsum(chunk, axis=1)
    square = np.sum(np.square(x), axis=-1)
    return -square.sum(1) - GAMMA * (p * square[:, -1] + c)


def exact_gradient(obs, chunk):
    """Returns dQ/da `[B, Ta, Da]`: action j moves every x_i with i >= j."""
    p, _ = (table[obs[:, DIM].astype(int) - 1] for table in coefficients())
    x = obs[:, None, :DIM] + STEP * np.cumsum(chunk, axis=1)
    slope = -2 * STEP * x
    slope[:, -1] *= 1 + GAMMA * p[:, None]
    return np.cumsum(slope[:, ::-1], axis=1)[:, ::-1]


def randn(use, ids, chunk_index):
    """Start noise; every use, id and chunk has its own."""
    rngs = [np.random.default_rng([use, i, c]) for i, c in zip(ids, chunk_index)]
    return np.stack([rng.normal(size=(CHUNK_LEN, DIM)) for rng in rngs])


def decode(obs, noise):
    return -GAIN * obs[:, None, :DIM] + SIGMA * noise


SPREADS = np.array([-1.5, -0.5, 0.5, 1.5])  # of four critics: mean 0, deviation 1.291


def subject(q=exact_q, gradient=exact_gradient, steer=decode, spread=0.01):
    """The linear policy with four critics, `q` plus `spread` times SPREADS."""

    def judge(obs, chunk):
        value = q(obs, chunk)
        members = value + spread * SPREADS[:, None]
        return Judgement(members, value, gradient(obs, chunk), np.ones(len(obs)))

    return Subject(randn, decode, steer, judge)
