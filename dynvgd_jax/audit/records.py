"""What an audit plays with and what it finds, as plain values."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Judgement(NamedTuple):
    """What critics say about B chunks."""

    q: np.ndarray  # [N, B] every critic's value
    value: np.ndarray  # [B] combined, as under the gradient
    gradient: np.ndarray  # [B, Ta, Da] of `value` by the chunk
    weight: np.ndarray  # [B] w


class Subject(NamedTuple):
    """The policies and critics under audit; all work on batches of B rows."""

    # (use of noise, ids [B] uint32, chunk_index [B] int32) -> start noise [B, Ta, Da]
    noise: Callable[[int, np.ndarray, np.ndarray], Any]
    # (obs [B, Do], start noise) -> chunk [B, Ta, Da] of the base policy
    decode: Callable[[np.ndarray, Any], Any]
    # (obs [B, Do], start noise) -> chunk [B, Ta, Da] of the steered policy
    steer: Callable[[np.ndarray, Any], Any]
    # (obs [B, Do], chunk [B, Ta, Da]) -> Judgement
    judge: Callable[[np.ndarray, np.ndarray], Judgement]


class Plan(NamedTuple):
    """How much to play."""

    states: int  # S, one from each of as many episodes
    chunks: int  # K, drawn chunks per state
    repeats: int  # M, continuations per first chunk
    lengths: tuple[float, ...]  # norms over the chunk, normalised action units
    seed: int
    gamma: float  # per chunk
    reward_offset: float
    end_at_success: bool = False  # as training episodes did
    past_time_limit: bool = False  # as targets that bootstrap there look past it

    def variants(self) -> list[tuple[str, float]]:
        """The (kind, length) of the V first chunks that each drawn chunk gives."""
        moves = [(kind, x) for kind in ("gradient", "random") for x in self.lengths]
        return [("plain", 0.0), ("guided", 0.0), *moves]

    def rollouts(self) -> int:
        """All continuations together."""
        return self.states * self.chunks * len(self.variants()) * self.repeats


class States(NamedTuple):
    """Where the branches start."""

    obs: np.ndarray  # [S, Do] float32
    hidden: dict[str, np.ndarray]  # of SavesState.get_state, leading axis S
    chunk_index: np.ndarray  # [S] int32, chunks that the episode had executed
    episode_seed: np.ndarray  # [S] uint32


class FirstChunks(NamedTuple):
    """The S x K x V first chunks and what the critics say about them."""

    chunk: np.ndarray  # [S, K, V, Ta, Da] float32
    moved: np.ndarray  # [S, K, V] norm of the difference to the plain chunk
    q: np.ndarray  # [S, K, V, N]
    value: np.ndarray  # [S, K, V]
    weight: np.ndarray  # [S, K, V]


class Outcomes(NamedTuple):
    """What the environments answered; [S, K, V, M] each."""

    discounted: np.ndarray  # float64, sum of gamma^n times the n-th chunk's reward
    success: np.ndarray  # bool, some whole chunk was successful
    length: np.ndarray  # int, chunks executed, the first one included
    fault: np.ndarray  # bool, physics broke: the episode ended there


class Played(NamedTuple):
    """All raw numbers of an audit."""

    plan: Plan
    states: States
    first: FirstChunks
    outcomes: Outcomes
