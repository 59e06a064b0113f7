"""The seam of the critics: N of them at once, whatever one predicts of a return."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dynvgd_jax.core.types import PyTree

# Combines the ensemble's values [N, ...] into one [...]; table of config strings.
REDUCERS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "min": lambda q: jnp.min(q, axis=0),
    "mean": lambda q: jnp.mean(q, axis=0),
}

# `target_reduce`: the least of two target critics, drawn anew for every gradient step.
RANDOM_PAIR = "random_pair"


class Critic(NamedTuple):
    """An ensemble of N critics as pure functions.

    A prediction is `[N, B, ...]`: `[N, B]` where a critic predicts a mean, with an axis
    more where it predicts a distribution.
    """

    init: Callable[[jax.Array], PyTree]  # key -> parameters, leading axis N
    # (params, obs [B, Do], flat action [B, Ta*Da]) -> prediction; both may be [N, B,
    # ...], rows of each critic's own
    predict: Callable[[PyTree, jax.Array, jax.Array], Any]
    # prediction -> [N, B], or y -> [B], in units of Q
    mean: Callable[[Any], jax.Array]
    # (prediction of the target critics at the next observation, reward [B],
    # discount [B]) -> y [B, ...], what every critic shall predict
    target: Callable[[Any, jax.Array, jax.Array], Any]
    # (prediction, y) -> [], summed over the critics, mean over the batch
    loss: Callable[[Any, Any], jax.Array]
    # y [B, C, ...] of C equally likely next actions -> y [B, ...]
    mix: Callable[[Any], Any]
    groups: int = 1  # of critics, that each have their own part of a batch: groups.py

    def q(self, params: PyTree, obs: jax.Array, flat: jax.Array) -> jax.Array:
        """Returns each critic's value `[N, B]`."""
        return self.mean(self.predict(params, obs, flat))
