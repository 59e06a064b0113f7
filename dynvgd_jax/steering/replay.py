"""A ring buffer of transitions that lives on the device."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynvgd_jax.types import Transition


class ReplayState(NamedTuple):
    """Storage and cursors; `data` leaves have a leading axis `capacity`."""

    data: Transition
    cursor: jax.Array  # [] int32, next slot to write
    size: jax.Array  # [] int32, number of valid slots
    # Transitions from elsewhere, drawn beside the buffer's and never overwritten.
    offline: Transition | None = None


def transition_nbytes(obs_dim: int, flat_action_dim: int) -> int:
    """Returns the bytes that one stored transition takes."""
    return 4 * (2 * obs_dim + flat_action_dim + 2)


def init_replay(
    capacity: int,
    obs_dim: int,
    flat_action_dim: int,
    offline: Transition | None = None,
) -> ReplayState:
    """Returns an empty buffer; the memory is allocated now, not when it fills up.

    `offline`: NumPy transitions, leading axis of at least 1, or None.
    """
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
        offline=None if offline is None else Transition(*map(jnp.asarray, offline)),
    )


def refill(state: ReplayState, data: Transition, total: int) -> ReplayState:
    """Returns the buffer that held `total` transitions so far, `data` in its slots.

    Several buffers, of devices or seeds, have leading axes and each held `total`.
    `data` may have further axes of 1 in the shape of `state.data`. `state` gives its
    memory back first and must not be used again.
    """
    capacity = state.data.reward.shape[-1]
    values = {"cursor": total % capacity, "size": min(total, capacity)}

    def place(value, like):
        value = np.asarray(value, like.dtype)
        if value.ndim:
            value = value.reshape(like.shape)
        value = np.broadcast_to(value, like.shape)
        return jax.device_put(value, like.sharding, may_alias=False)

    for leaf in state.data:
        leaf.delete()
    return state._replace(
        data=jax.tree.map(place, data, state.data),
        **{name: place(value, getattr(state, name)) for name, value in values.items()},
    )


def add(state: ReplayState, batch: Transition) -> ReplayState:
    """Writes `batch` (leading axis n <= capacity) over the oldest slots."""
    capacity = state.data.reward.shape[0]
    count = batch.reward.shape[0]
    if count > capacity:
        raise ValueError(f"{count} transitions do not fit a buffer of {capacity}")
    slots = (state.cursor + jnp.arange(count, dtype=jnp.int32)) % capacity
    data = jax.tree.map(lambda store, new: store.at[slots].set(new), state.data, batch)
    return state._replace(
        data=data,
        cursor=(state.cursor + count) % capacity,
        size=jnp.minimum(state.size + count, capacity),
    )


def sample(
    state: ReplayState, key: jax.Array, shape: tuple[int, ...], num_offline: int = 0
) -> Transition:
    """Returns transitions drawn uniformly with replacement, leading axes `shape`.

    The first `num_offline` along the last of these axes are `state.offline`'s, the
    others the buffer's, which must not be empty: slot 0 would be returned as if it were
    valid.
    """
    if not num_offline:
        return _draw(state.data, key, shape, jnp.maximum(state.size, 1))
    offline_key, online_key = jax.random.split(key)
    *lead, batch = shape
    count = len(state.offline.reward)
    offline = _draw(state.offline, offline_key, (*lead, num_offline), count)
    rest = (*lead, batch - num_offline)
    online = _draw(state.data, online_key, rest, jnp.maximum(state.size, 1))
    axis = len(lead)
    return jax.tree.map(lambda *p: jnp.concatenate(p, axis), offline, online)


def _draw(
    data: Transition, key: jax.Array, shape: tuple[int, ...], count
) -> Transition:
    slots = jax.random.randint(key, shape, 0, count)
    return jax.tree.map(lambda store: store[slots], data)
