"""A ring buffer of transitions, as pure functions on arrays of one device.

Transitions may have any fields: the buffer is made for an example of one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynvgd_jax.core.types import Following, PyTree, Transition


class ReplayState(NamedTuple):
    """Storage and cursors; `data` leaves have a leading axis `capacity`."""

    data: Transition
    cursor: jax.Array  # [] int32, next slot to write
    size: jax.Array  # [] int32, number of valid slots
    # Transitions from elsewhere, drawn beside the buffer's and never overwritten.
    offline: Transition | None = None


class Window(NamedTuple):
    """How far a drawn transition reaches, and what its future is worth."""

    gamma: float  # discount per chunk
    steps: int = 1  # n, action chunks until the bootstrap
    # Slots from a transition to the next one of the same environment: transitions are
    # stored a whole vector step at a time.
    stride: int = 1
    follow: bool = False  # whether it tells what was executed after it


def example_transition(
    obs_dim: int,
    flat_action_dim: int,
    extras: dict[str, np.ndarray] | None = None,
    next_extras: dict[str, np.ndarray] | None = None,
) -> Transition:
    """Returns a transition of zeros, without leading axes: shapes and dtypes.

    Args:
      obs_dim: Do.
      flat_action_dim: Ta * Da.
      extras: examples of what a method stores beside.
      next_extras: examples of what it draws at the next observation.
    """
    return Transition(
        obs=np.zeros(obs_dim, np.float32),
        action=np.zeros(flat_action_dim, np.float32),
        reward=np.zeros((), np.float32),
        next_obs=np.zeros(obs_dim, np.float32),
        discount=np.zeros((), np.float32),
        ended=np.zeros((), bool),
        extras=dict(extras or {}),
        next_extras=dict(next_extras or {}),
    )


def transition_nbytes(example: Transition) -> int:
    """Returns the bytes that one stored transition takes."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(example))


def init_replay(
    capacity: int, example: Transition, offline: Transition | None = None
) -> ReplayState:
    """Returns an empty buffer; the memory is allocated now, not when it fills up.

    Args:
      capacity: transitions, at least 1.
      example: one transition, see `example_transition`.
      offline: NumPy transitions, leading axis of at least 1, or None.

    Raises:
      ValueError: the capacity is too small.
    """
    if capacity < 1:
        raise ValueError(f"replay capacity is {capacity}, expected at least 1")
    return ReplayState(
        data=jax.tree.map(
            lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), example
        ),
        cursor=jnp.zeros((), jnp.int32),
        size=jnp.zeros((), jnp.int32),
        offline=None if offline is None else jax.tree.map(jnp.asarray, offline),
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

    for leaf in jax.tree.leaves(state.data):
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
    window: Window,
    num_offline: int = 0,
) -> Transition:
    """Returns transitions drawn uniformly with replacement, leading axes `shape`.

    Their `discount` is the factor of the value at `next_obs`, gamma included. The first
    `num_offline` along the last axis of `shape` are `state.offline`'s and reach over
    one chunk; the others are the buffer's, each reaching over `window`. The buffer must
    not be empty: slot 0 would be returned as if it were valid.
    """
    if not num_offline:
        return _draw_online(state, key, shape, window)
    offline_key, online_key = jax.random.split(key)
    *lead, batch = shape
    count = len(state.offline.reward)
    slots = jax.random.randint(offline_key, (*lead, num_offline), 0, count)
    offline = drawn_offline(rows(state.offline, slots), window)
    online = _draw_online(state, online_key, (*lead, batch - num_offline), window)
    axis = len(lead)
    return jax.tree.map(lambda *p: jnp.concatenate(p, axis), offline, online)


def _draw_online(
    state: ReplayState, key: jax.Array, shape: tuple[int, ...], window: Window
) -> Transition:
    slots = jax.random.randint(key, shape, 0, jnp.maximum(state.size, 1))
    return look_ahead(state.data, state.cursor, slots, window)


def look_ahead(
    data: Transition, cursor: jax.Array, slots: jax.Array, window: Window, xp=jnp
) -> Transition:
    """Returns the n-step transitions that begin in `slots [...]`.

    `reward` is the discounted sum of the rewards of m <= n chunks, `next_obs` what
    follows them and `discount` gamma^m times that of the last, so that `reward +
    discount * value` is right. A window ends early with its episode, and with the
    newest transition that the buffer holds. `extras` are those of the first chunk,
    `next_extras` belong to `next_obs`.

    Args:
      data: the buffer's slots.
      cursor: [] next slot to write.
      slots: of the first chunks.
      window: how far to look.
      xp: the arrays' library, jax.numpy or numpy.
    """
    if window.steps == 1:
        drawn = discounted(rows(data, slots), window.gamma)
        return _followed(drawn, data, cursor, slots, window)
    capacity = data.reward.shape[0]
    newer = (cursor - 1 - slots) % capacity  # transitions stored after it
    # Explicit axes: tests refuse silent rank promotion.
    shape = (1,) * slots.ndim + (window.steps,)
    steps = xp.arange(window.steps, dtype=xp.int32)
    ahead = (window.stride * steps).reshape(shape)
    pad = [(0, 0)] * slots.ndim + [(1, 0)]
    places = (slots[..., None] + ahead) % capacity
    stored = newer[..., None] >= ahead
    goes_on = ~data.ended[places[..., :-1]]
    unbroken = xp.cumprod(xp.pad(goes_on, pad, constant_values=True), axis=-1) > 0
    counts = stored & unbroken
    discount = xp.asarray(window.gamma, xp.float32) ** steps.astype(xp.float32)
    rewards = discount.reshape(shape) * data.reward[places]
    reward = xp.sum(xp.where(counts, rewards, 0.0), axis=-1, dtype=xp.float32)
    last = xp.sum(counts, axis=-1, dtype=xp.int32) - 1
    end = xp.take_along_axis(places, last[..., None], axis=-1)[..., 0]
    drawn = Transition(
        obs=data.obs[slots],
        action=data.action[slots],
        reward=reward,
        next_obs=data.next_obs[end],
        discount=data.discount[end] * (discount * window.gamma)[last],
        ended=data.ended[end],
        extras=rows(data.extras, slots),
        next_extras=rows(data.next_extras, end),
    )
    return _followed(drawn, data, cursor, end, window)


def _followed(
    drawn: Transition, data: Transition, cursor, end, window: Window
) -> Transition:
    """Adds what was executed after the chunk in slot `end`, where that is asked."""
    if not window.follow:
        return drawn
    capacity = data.reward.shape[0]
    newer = (cursor - 1 - end) % capacity
    action = data.action[(end + window.stride) % capacity]
    known = (newer >= window.stride) & ~drawn.ended
    return drawn._replace(followed_by=Following(action, known))


def drawn_offline(batch: Transition, window: Window) -> Transition:
    """Returns transitions from elsewhere as drawn ones; what followed is not known."""
    batch = discounted(batch, window.gamma)
    if window.follow:
        unknown = Following(batch.action, batch.ended & False)
        batch = batch._replace(followed_by=unknown)
    return batch


def discounted(batch: Transition, gamma: float) -> Transition:
    """Returns stored transitions as drawn ones: `discount` with gamma in it."""
    return batch._replace(discount=batch.discount * gamma)


def rows(data: PyTree, slots: jax.Array) -> PyTree:
    """Returns what stands in `slots [...]` of every leaf."""
    return jax.tree.map(lambda store: store[slots], data)
