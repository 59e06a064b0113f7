"""A ring buffer of transitions that lives on the device."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dynvgd_jax.types import Transition


class ReplayState(NamedTuple):
    """Storage and cursors; `data` leaves have a leading axis `capacity`."""

    data: Transition
    cursor: jax.Array  # [] int32, next slot to write
    size: jax.Array  # [] int32, number of valid slots


def transition_nbytes(obs_dim: int, flat_action_dim: int) -> int:
    """Returns the bytes that one stored transition takes."""
    return 4 * (2 * obs_dim + flat_action_dim + 2)


def init_replay(capacity: int, obs_dim: int, flat_action_dim: int) -> ReplayState:
    """Returns an empty buffer; the memory is allocated now, not when it fills up."""
    if capacity < 1:
        raise ValueError(f"replay capacity is {capacity}, expected at least 1")
    return ReplayState(
        data=Transition(
            obs=jnp.zeros((capacity, obs_dim)),
            action=jnp.zeros((capacity, flat_action_dim)),
            reward=jnp.zeros((capacity,)),
            next_obs=jnp.zeros((capacity, obs_dim)),
            done=jnp.zeros((capacity,)),
        ),
        cursor=jnp.zeros((), jnp.int32),
        size=jnp.zeros((), jnp.int32),
    )


def refill(state: ReplayState, data: Transition, total: int) -> ReplayState:
    """Returns the buffer that held `total` transitions so far, `data` in its slots.

    `state` gives its memory back first and must not be used again.
    """
    for leaf in state.data:
        leaf.delete()
    return filled(data, total)


def filled(data: Transition, total: int | jax.Array) -> ReplayState:
    """Returns the buffer with `data` in its slots after `total` transitions."""
    capacity = data.reward.shape[0]
    return ReplayState(
        data=Transition(*(jnp.array(part) for part in data)),
        cursor=jnp.int32(total % capacity),
        size=jnp.minimum(jnp.int32(total), capacity),
    )


def add(state: ReplayState, batch: Transition) -> ReplayState:
    """Writes `batch` (leading axis n <= capacity) over the oldest slots."""
    capacity = state.data.reward.shape[0]
    count = batch.reward.shape[0]
    if count > capacity:
        raise ValueError(f"{count} transitions do not fit a buffer of {capacity}")
    slots = (state.cursor + jnp.arange(count, dtype=jnp.int32)) % capacity
    data = jax.tree.map(lambda store, new: store.at[slots].set(new), state.data, batch)
    return ReplayState(
        data=data,
        cursor=(state.cursor + count) % capacity,
        size=jnp.minimum(state.size + count, capacity),
    )


def sample(state: ReplayState, key: jax.Array, shape: tuple[int, ...]) -> Transition:
    """Returns transitions drawn uniformly with replacement, leading axes `shape`.

    The buffer must not be empty: slot 0 would be returned as if it were valid.
    """
    slots = jax.random.randint(key, shape, 0, jnp.maximum(state.size, 1))
    return jax.tree.map(lambda store: store[slots], state.data)
