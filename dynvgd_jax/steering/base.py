"""The seam of the methods: what learns to steer a frozen policy, as pure functions.

A method is one file that makes a `Method` from its part of the configuration, and a
line in `methods.py`. It draws its own noise, says what it stores beside a transition,
and knows nothing of files, devices or environments.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from dynvgd_jax.core.types import EpisodeEnds, PyTree
from dynvgd_jax.diffusion.base import Denoiser

Metrics = dict[str, jax.Array]


class ActInputs(NamedTuple):
    """What acting gets to know, for B environments."""

    obs: jax.Array  # [B, Do] float32, normalised
    key: jax.Array  # PRNG key of all acting
    seeds: jax.Array  # [B] uint32, of the episodes' resets
    chunk_index: jax.Array  # [B] int32, chunks that each episode has executed
    # [B] int32, number of each training episode, counted as they start
    episode: jax.Array | int = 0
    env_steps: jax.Array | int = 0  # [] control steps of training so far
    # [] bool: an evaluation, where nothing is tried out
    evaluating: jax.Array | bool = False
    # [B, Ta, Da], or [B, C, Ta, Da] to choose from: start noise to use, or the normal
    # draw from which a method makes its own; None lets the method draw
    noise: jax.Array | None = None
    # what `Method.propose` gave for these observations; None lets the method draw it
    proposed: dict[str, jax.Array] | None = None


class Decision(NamedTuple):
    """What acting decided."""

    chunk: jax.Array  # [B, Ta, Da] float32, normalised
    # arrays `[B, ...]` by name, stored beside the transition and given back in batches
    extras: dict[str, jax.Array]
    metrics: Metrics  # `guide/*` scalars


class Value(NamedTuple):
    """What the critics say about B chunks."""

    members: jax.Array  # [N, B] each critic's value
    combined: jax.Array  # [B] as guidance and choice see it
    weight: jax.Array  # [B] trust in it, 1 where the method has no such weight


class Method(NamedTuple):
    """The functions of one method.

    Its `state` is a NamedTuple of arrays with a field `num_updates`, [] int32: gradient
    steps so far; where it has critics also with `td_error`, [] float32: mean |Q - y| of
    the previous training call, Q units. `params` are the frozen policy's.
    """

    init: Callable[[jax.Array], Any]  # key -> state
    # (state, params, inputs) -> Decision
    act: Callable[[Any, PyTree, ActInputs], Decision]
    # (params, inputs) -> Decision of the first rollouts, before anything is learned
    explore: Callable[[PyTree, ActInputs], Decision]
    # (state, params, batches [utd + more_batches, B], key, env_steps) ->
    # (state, `train/*` scalars): one training call, a gradient step for each of the
    # first utd batches; None takes no gradient steps. The first half of
    # `jax.random.split(key)` has drawn the batches.
    update: Callable[..., tuple[Any, Metrics]] | None = None
    # (state, ends) -> state, after every vector step; None does not look at them
    observe: Callable[[Any, EpisodeEnds], Any] | None = None
    # (state, obs [B, Do], chunk [B, Ta, Da]) -> Value; None has no critics
    value: Callable[[Any, jax.Array, jax.Array], Value] | None = None

    # (params, inputs) -> arrays `[B, ...]` by name, drawn once for every observation
    # that training visits: acting there gets them as `inputs.proposed`, and every later
    # target as `next_extras` of the transition that led there; None draws nothing
    propose: Callable[[PyTree, ActInputs], dict[str, jax.Array]] | None = None

    # what `act` and `explore` store beside, by name: an example of one row of each
    extras: dict[str, np.ndarray] = {}  # noqa: RUF012, never changed
    # likewise of `propose`, of the dtype in which it is stored
    next_extras: dict[str, np.ndarray] = {}  # noqa: RUF012, never changed
    # whether batches shall tell what was executed at the next observation
    follows: bool = False
    candidates: int = 1  # start noises whose chunks acting chooses from
    more_batches: int = 0  # drawn for a training call beside those of its utd steps
    # whether acting needs neither noise nor key: its start noise is learned
    own_noise: bool = False
    # whether its critics value more than rewards, which then do not bound them
    soft_values: bool = False

    @property
    def trains(self) -> bool:
        """Whether a run of it is more than an evaluation."""
        return self.update is not None or self.observe is not None


class Setting(NamedTuple):
    """What a method is built for; see `methods.build_method`."""

    config: ConfigDict  # of the run, checked
    denoiser: Denoiser  # of the frozen policy
    obs_dim: int  # Do
    chunk_shape: tuple[int, int]  # (Ta, Da)
    # mean over the devices, where each holds a part of every batch
    average: Callable[[PyTree], PyTree] = lambda tree: tree

    @property
    def flat_dim(self) -> int:
        """Ta * Da."""
        return self.chunk_shape[0] * self.chunk_shape[1]
