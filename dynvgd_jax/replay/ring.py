"""A ring buffer of transitions that lives on the device."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynvgd_jax.core.types import Transition


class ReplayState(NamedTuple):
    """Storage and cursors; `data` leaves have a leading axis `capacity`."""

    data: Transition
    cursor: jax.Array  # [] int32, next slot to write
    size: jax.Array  # [] int32, number of valid slots
    # Transitions from elsewhere, drawn beside the buffer's and never overwritten.
    offline: Transition | None = None


class Window(NamedTuple):
    """How far a drawn transition reaches; `Window()` is the transition as stored."""

    steps: int = 1  # n, action chunks until the bootstrap
    # Slots from a transition to the next one of the same environment: transitions are
    # stored a whole vector step at a time.
    stride: int = 1
    gamma: float = 1.0  # discount per chunk


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
    state: ReplayState,
    key: jax.Array,
    shape: tuple[int, ...],
    num_offline: int = 0,
    window: Window = Window(),  # noqa: B008, a constant
) -> Transition:
    """Returns transitions drawn uniformly with replacement, leading axes `shape`.

    The first `num_offline` along the last of these axes are `state.offline`'s, as they
    are; the others the buffer's, each reaching over `window`. The buffer must not be
    empty: slot 0 would be returned as if it were valid.
    """
    if not num_offline:
        return _draw_online(state, key, shape, window)
    offline_key, online_key = jax.random.split(key)
    *lead, batch = shape
    count = len(state.offline.reward)
    slots = jax.random.randint(offline_key, (*lead, num_offline), 0, count)
    offline = _rows(state.offline, slots)
    online = _draw_online(state, online_key, (*lead, batch - num_offline), window)
    axis = len(lead)
    return jax.tree.map(lambda *p: jnp.concatenate(p, axis), offline, online)


def _draw_online(
    state: ReplayState, key: jax.Array, shape: tuple[int, ...], window: Window
) -> Transition:
    slots = jax.random.randint(key, shape, 0, jnp.maximum(state.size, 1))
    if window.steps == 1:
        return _rows(state.data, slots)
    return look_ahead(state, slots, window)


def look_ahead(state: ReplayState, slots: jax.Array, window: Window) -> Transition:
    """Returns the n-step transitions that begin in `slots [...]`.

    `reward` is the discounted sum of the next n rewards, `next_obs` what follows them.
    A window ends early with its episode (the next transition of that environment begins
    elsewhere), and with the newest one that the buffer holds. That the bootstrap after
    m <= n chunks counts gamma^m is in `done`, so that `reward + (1 - done) * gamma *
    value` is right: 1 - done is gamma^(m - 1), 0 where the episode is done.
    """
    data, capacity = state.data, state.data.reward.shape[0]
    newer = (state.cursor - 1 - slots) % capacity  # transitions stored after it
    # Explicit axes: tests refuse silent rank promotion.
    shape = (1,) * slots.ndim + (window.steps,)
    steps = jnp.arange(window.steps, dtype=jnp.int32)
    ahead = (window.stride * steps).reshape(shape)
    pad = [(0, 0)] * slots.ndim + [(1, 0)]
    places = (slots[..., None] + ahead) % capacity
    stored = newer[..., None] >= ahead
    arrived, begun = data.next_obs[places[..., :-1]], data.obs[places[..., 1:]]
    same = jnp.all(arrived == begun, axis=-1)
    unbroken = jnp.cumprod(jnp.pad(same, pad, constant_values=True), axis=-1) > 0
    counts = stored & unbroken
    discount = window.gamma ** steps.astype(jnp.float32)
    rewards = discount.reshape(shape) * data.reward[places]
    reward = jnp.sum(jnp.where(counts, rewards, 0.0), axis=-1)
    last = jnp.sum(counts, axis=-1, dtype=jnp.int32) - 1
    end = jnp.take_along_axis(places, last[..., None], axis=-1)[..., 0]
    return Transition(
        obs=data.obs[slots],
        action=data.action[slots],
        reward=reward,
        next_obs=data.next_obs[end],
        done=1.0 - (1.0 - data.done[end]) * discount[last],
    )


def _rows(data: Transition, slots: jax.Array) -> Transition:
    return jax.tree.map(lambda store: store[slots], data)
