"""Ring buffer: wrap-around, sampling only what is valid, transition by transition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynvgd_jax.core.types import Transition
from dynvgd_jax.replay import ring as replay
from dynvgd_jax.replay.ring import Window
from tests.support.stored import (
    EXAMPLE,
    EXAMPLE_WITH_BOTH,
    EXTRAS,
    assert_followed,
    assert_same_bits,
    numbered,
    random_extras,
    random_history,
    walked,
)

AS_STORED = Window(gamma=1.0)
add = jax.jit(replay.add)
sample = jax.jit(replay.sample, static_argnums=(2, 3, 4))


def test_past_capacity_the_oldest_slots_are_overwritten():
    state = replay.init_replay(5, EXAMPLE)
    for first in (0, 3, 6):  # 9 transitions in threes into 5 slots
        state = replay.add(state, numbered(range(first, first + 3)))
    # Slots by hand: 0..4 <- 0,1,2,3,4 then 5 -> slot 0, 6,7,8 -> slots 1,2,3.
    np.testing.assert_array_equal(state.data.obs[:, 0], [5, 6, 7, 8, 4])
    np.testing.assert_array_equal(state.data.next_obs[:, 2], [305, 306, 307, 308, 304])
    np.testing.assert_array_equal(state.data.ended, [1, 0, 1, 0, 0])
    np.testing.assert_array_equal(state.data.discount, [0, 1, 0, 1, 1])
    assert int(state.cursor) == 4 and int(state.size) == 5


def test_samples_only_valid_slots_and_keeps_rows_together():
    state = replay.add(replay.init_replay(100, EXAMPLE), numbered([3, 4, 5]))
    batch = sample(state, jax.random.key(0), (4, 50), AS_STORED)
    assert batch.obs.shape == (4, 50, 3) and batch.reward.shape == (4, 50)
    n = np.asarray(batch.obs[..., 0])
    assert set(np.unique(n)) == {3, 4, 5}
    np.testing.assert_array_equal(batch.action[..., 1], n + 100)
    np.testing.assert_array_equal(batch.reward, n + 200)
    np.testing.assert_array_equal(batch.next_obs[..., 0], n + 300)
    np.testing.assert_array_equal(batch.discount, 1 - n % 2)
    np.testing.assert_array_equal(batch.ended, n % 2 == 1)


def test_drawn_discounts_have_gamma_in_them():
    """Of the buffer's transitions and of the offline ones."""
    state = replay.init_replay(5, EXAMPLE, offline=numbered([10, 11]))
    state = replay.add(state, numbered([0, 1, 2]))
    batch = sample(state, jax.random.key(0), (40, 4), Window(gamma=0.75), 2)
    n = np.asarray(batch.obs[..., 0])
    np.testing.assert_array_equal(batch.discount, 0.75 * (1 - n % 2))
    assert len(set(n.ravel())) == 5


def test_sampling_is_uniform():
    state = replay.add(replay.init_replay(4, EXAMPLE), numbered(range(4)))
    drawn = sample(state, jax.random.key(1), (40_000,), AS_STORED).obs[:, 0]
    counts = np.bincount(np.asarray(drawn, int), minlength=4)
    # Binomial(40000, 1/4): standard deviation 87; five of them.
    assert np.abs(counts - 10_000).max() < 433


def test_a_share_of_each_batch_is_the_offline_transitions():
    state = replay.init_replay(5, EXAMPLE, offline=numbered(range(1000, 1010)))
    for first in (0, 3, 6):  # overwrites the buffer's own slots only
        state = replay.add(state, numbered(range(first, first + 3)))
    batch = sample(state, jax.random.key(0), (20, 8), AS_STORED, 3)
    n = np.asarray(batch.obs[..., 0])
    assert n.shape == (20, 8)
    assert set(np.unique(n[:, :3])) == set(range(1000, 1010))
    assert set(np.unique(n[:, 3:])) == {4, 5, 6, 7, 8}
    np.testing.assert_array_equal(batch.reward, n + 200)
    np.testing.assert_array_equal(batch.next_obs[..., 2], n + 300)
    everything = sample(state, jax.random.key(0), (4,), AS_STORED, 4)
    assert everything.obs.min() >= 1000


@pytest.mark.parametrize("xp", [jnp, np], ids=["device", "host"])
@pytest.mark.parametrize("done", [0.0, 1.0])
def test_look_ahead_by_hand(done, xp):
    # Two environments by turns, six slots of which slot 2 is the oldest: environment 0
    # is 2, 4, 0 and environment 1 is 3, 5, 1, whose episode ended in slot 5: slot 1
    # begins elsewhere. That end is stored as done, or not (a time limit).
    data = numbered(range(6))._replace(
        reward=np.float32([1, 2, 4, 8, 16, 32]),
        next_obs=np.repeat(np.float32([[20], [21], [4], [5], [0], [25]]), 3, 1),
        discount=np.float32([1, 1, 1, 1, 1, 1 - done]),
        ended=np.array([0, 0, 0, 0, 0, 1], bool),
    )
    data = jax.tree.map(xp.asarray, data)
    window = Window(gamma=0.5, steps=3, stride=2)
    found = replay.look_ahead(data, xp.int32(2), xp.arange(6), window, xp)
    # Slot 0: newest of its environment, one chunk. Slot 1: after the end, one chunk.
    # Slot 2: 4 + 16/2 + 1/4. Slot 3: 8 + 32/2 and the end. Slot 4: 16 + 1/2. Slot 5:
    # 32, the end.
    np.testing.assert_allclose(found.reward, [1, 2, 12.25, 24, 16.5, 32])
    np.testing.assert_array_equal(found.next_obs[:, 0], [20, 21, 20, 25, 20, 25])
    # gamma^m for m = 1, 1, 3, 2, 2, 1; 0 where the end is stored as done.
    at_end = [0, 0] if done else [0.25, 0.5]
    np.testing.assert_allclose(
        found.discount, [0.5, 0.5, 0.125, at_end[0], 0.25, at_end[1]]
    )
    np.testing.assert_array_equal(found.ended, [0, 0, 0, 1, 0, 1])
    np.testing.assert_array_equal(found.obs[:, 0], np.arange(6))
    np.testing.assert_array_equal(found.action[:, 0], np.arange(6) + 100)


@pytest.mark.parametrize("xp", [jnp, np], ids=["device", "host"])
def test_a_reset_that_equals_the_terminal_observation_ends_the_window(xp):
    """The observations alone cannot tell where an episode ends."""
    data = numbered(range(3))._replace(
        obs=np.repeat(np.float32([[7], [8], [9]]), 3, 1),
        reward=np.float32([1, 2, 4]),
        next_obs=np.repeat(np.float32([[8], [9], [10]]), 3, 1),
        discount=np.ones(3, np.float32),  # a time limit that targets look past
        ended=np.array([0, 1, 0], bool),
    )
    data = jax.tree.map(xp.asarray, data)
    window = Window(gamma=0.5, steps=3)
    found = replay.look_ahead(data, xp.int32(0), xp.arange(3), window, xp)
    # 1 + 2/2 and the end; the end; the next episode's first.
    np.testing.assert_allclose(found.reward, [2, 2, 4])
    np.testing.assert_array_equal(found.next_obs[:, 0], [9, 9, 10])
    np.testing.assert_allclose(found.discount, [0.25, 0.5, 0.5])


@pytest.mark.parametrize("steps", [1, 2, 5, 40])
def test_look_ahead_agrees_with_a_walk_through_the_episodes(steps):
    """Random episodes of three environments, the buffer overwritten three times."""
    capacity, envs, gamma = 20, 3, 0.9
    history = random_history(steps, 23, envs)
    state = replay.init_replay(capacity, EXAMPLE)
    for fresh in history:
        state = add(state, fresh)
    window = Window(gamma, steps, envs, follow=True)
    batch = sample(state, jax.random.key(0), (30, 20), window)
    assert_followed(jax.tree.map(np.asarray, batch), 69)
    assert set(np.unique(batch.obs[..., 0])) == set(range(49, 69))
    value = 7.0  # whatever the bootstrap is
    batch = jax.tree.map(np.asarray, batch)
    for index in np.ndindex(30, 20):
        number = int(batch.obs[index][0])
        reward, discount, next_obs = walked(history, number, steps, envs, gamma)
        got = batch.reward[index] + batch.discount[index] * value
        np.testing.assert_allclose(got, reward + discount * value, rtol=1e-5)
        np.testing.assert_allclose(batch.discount[index], discount, rtol=1e-5)
        np.testing.assert_array_equal(batch.next_obs[index], next_obs)


def test_offline_transitions_reach_over_one_chunk_whatever_the_window():
    state = replay.init_replay(5, EXAMPLE, offline=numbered(range(1000, 1010)))
    state = replay.add(state, numbered([2, 4, 6]))
    window = Window(gamma=0.5, steps=3, follow=True)
    batch = sample(state, jax.random.key(0), (50, 8), window, 3)
    assert not batch.followed_by.known[:, :3].any()
    n = np.asarray(batch.obs[:, :3, 0])
    np.testing.assert_array_equal(batch.reward[:, :3], n + 200)
    np.testing.assert_array_equal(batch.next_obs[:, :3, 0], n + 300)
    assert set(np.unique(batch.next_obs[:, 3:, 0])) == {306}


def test_jitted_add_equals_plain_add():
    plain = fast = replay.init_replay(7, EXAMPLE)
    for first in range(0, 20, 4):
        plain = replay.add(plain, numbered(range(first, first + 4)))
        fast = add(fast, numbered(range(first, first + 4)))
    jax.tree.map(np.testing.assert_array_equal, plain, fast)


@pytest.mark.parametrize("steps", [1, 3])
def test_extras_come_back_bit_for_bit(steps):
    """Of any dtype and shape; those of a window's first chunk and of its end."""
    both = {"extras": random_extras(0, 6), "next_extras": random_extras(1, 6)}
    stored = numbered(range(6))._replace(**both)
    state = replay.init_replay(6, EXAMPLE_WITH_BOTH)
    for part in (slice(0, 4), slice(4, 6)):
        state = add(state, jax.tree.map(lambda leaf, p=part: leaf[p], stored))
    batch = sample(state, jax.random.key(0), (40,), Window(0.9, steps, 2))
    n = np.asarray(batch.obs[:, 0], int)
    assert set(n) == set(range(6)) and set(batch.extras) == set(EXTRAS)
    last = np.asarray(batch.next_obs[:, 0], int) - 300
    assert (steps == 1) == (last == n).all()
    for name in EXTRAS:
        assert_same_bits(batch.extras[name], stored.extras[name][n])
        assert_same_bits(batch.next_extras[name], stored.next_extras[name][last])


def test_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="do not fit"):
        replay.add(replay.init_replay(2, EXAMPLE), numbered(range(3)))
    with pytest.raises(ValueError, match="at least 1"):
        replay.init_replay(0, EXAMPLE)


def test_transition_size_for_square():
    # 23 + 23 observation, 28 action, reward, discount: 76 floats of 4 bytes, and a byte
    # for the end; 10 M of them are 3.05 GB.
    example = replay.example_transition(23, 28)
    assert replay.transition_nbytes(example) == 305
    state = replay.init_replay(10, example)
    assert sum(x.nbytes for x in jax.tree.leaves(state.data)) == 10 * 305
    assert state.data.obs.dtype == jnp.float32
    assert isinstance(state.data, Transition)
    extras = {"noise": np.zeros((4, 7), np.float32), "kept": np.zeros((), bool)}
    example = replay.example_transition(23, 28, extras)
    assert replay.transition_nbytes(example) == 305 + 4 * 28 + 1
