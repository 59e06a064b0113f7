"""Of several decoded chunks the one that the critics value most."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def best_of(
    value_fn: Callable[[jax.Array, jax.Array], jax.Array],
    obs: jax.Array,
    chunks: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Returns the chunks `[B, Ta, Da]` of highest value, and the gain `[]`.

    The gain is the mean over B of the highest less the mean value.

    Args:
      value_fn: `(obs [n, Do], flat actions [n, Ta*Da]) -> value [n]`.
      obs: `[B, Do]`.
      chunks: `[B, C, Ta, Da]`, C candidates for each observation.
    """
    batch = len(chunks)
    value = values_of(value_fn, obs, chunks)
    best = jnp.argmax(value, axis=1)
    gain = jnp.mean(jnp.max(value, axis=1) - jnp.mean(value, axis=1))
    return chunks[jnp.arange(batch), best], gain


def values_of(
    value_fn: Callable[[jax.Array, jax.Array], jax.Array],
    obs: jax.Array,
    chunks: jax.Array,
) -> jax.Array:
    """Returns the value `[B, C]` of every chunk; arguments as `best_of`'s."""
    batch, candidates = chunks.shape[:2]
    flat = chunks.reshape(batch * candidates, -1)
    value = value_fn(jnp.repeat(obs, candidates, axis=0), flat)
    return value.reshape(batch, candidates)
