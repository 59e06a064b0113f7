"""Ring buffer: wrap-around, sampling only what is valid, transition by transition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynvgd_jax.steering import replay
from dynvgd_jax.types import Transition


def numbered(numbers):
    """Transitions whose every field spells its number."""
    n = np.asarray(numbers, np.float32)
    return Transition(
        obs=np.repeat(n[:, None], 3, 1),
        action=np.repeat(n[:, None], 2, 1) + 100,
        reward=n + 200,
        next_obs=np.repeat(n[:, None], 3, 1) + 300,
        done=(n % 2).astype(np.float32),
    )


def test_past_capacity_the_oldest_slots_are_overwritten():
    state = replay.init_replay(5, 3, 2)
    for first in (0, 3, 6):  # 9 transitions in threes into 5 slots
        state = replay.add(state, numbered(range(first, first + 3)))
    # Slots by hand: 0..4 <- 0,1,2,3,4 then 5 -> slot 0, 6,7,8 -> slots 1,2,3.
    np.testing.assert_array_equal(state.data.obs[:, 0], [5, 6, 7, 8, 4])
    np.testing.assert_array_equal(state.data.next_obs[:, 2], [305, 306, 307, 308, 304])
    assert int(state.cursor) == 4 and int(state.size) == 5


def test_samples_only_valid_slots_and_keeps_rows_together():
    state = replay.add(replay.init_replay(100, 3, 2), numbered([3, 4, 5]))
    batch = replay.sample(state, jax.random.key(0), (4, 50))
    assert batch.obs.shape == (4, 50, 3) and batch.reward.shape == (4, 50)
    n = np.asarray(batch.obs[..., 0])
    assert set(np.unique(n)) == {3, 4, 5}
    np.testing.assert_array_equal(batch.action[..., 1], n + 100)
    np.testing.assert_array_equal(batch.reward, n + 200)
    np.testing.assert_array_equal(batch.next_obs[..., 0], n + 300)
    np.testing.assert_array_equal(batch.done, n % 2)


def test_sampling_is_uniform():
    state = replay.add(replay.init_replay(4, 3, 2), numbered(range(4)))
    drawn = replay.sample(state, jax.random.key(1), (40_000,)).obs[:, 0]
    counts = np.bincount(np.asarray(drawn, int), minlength=4)
    # Binomial(40000, 1/4): standard deviation 87; five of them.
    assert np.abs(counts - 10_000).max() < 433


def test_a_share_of_each_batch_is_the_offline_transitions():
    state = replay.init_replay(5, 3, 2, offline=numbered(range(1000, 1010)))
    for first in (0, 3, 6):  # overwrites the buffer's own slots only
        state = replay.add(state, numbered(range(first, first + 3)))
    batch = jax.jit(replay.sample, static_argnums=(2, 3))(
        state, jax.random.key(0), (20, 8), 3
    )
    n = np.asarray(batch.obs[..., 0])
    assert n.shape == (20, 8)
    assert set(np.unique(n[:, :3])) == set(range(1000, 1010))
    assert set(np.unique(n[:, 3:])) == {4, 5, 6, 7, 8}
    np.testing.assert_array_equal(batch.reward, n + 200)
    np.testing.assert_array_equal(batch.next_obs[..., 2], n + 300)
    everything = replay.sample(state, jax.random.key(0), (4,), 4)
    assert everything.obs.min() >= 1000


def test_jitted_add_equals_plain_add():
    plain = fast = replay.init_replay(7, 3, 2)
    add = jax.jit(replay.add)
    for first in range(0, 20, 4):
        plain = replay.add(plain, numbered(range(first, first + 4)))
        fast = add(fast, numbered(range(first, first + 4)))
    jax.tree.map(np.testing.assert_array_equal, plain, fast)


def test_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="do not fit"):
        replay.add(replay.init_replay(2, 3, 2), numbered(range(3)))
    with pytest.raises(ValueError, match="at least 1"):
        replay.init_replay(0, 3, 2)


def test_transition_size_for_square():
    # 23 + 23 observation, 28 action, reward, done: 76 floats of 4 bytes; 10 M of them
    # are 3.04 GB.
    assert replay.transition_nbytes(23, 28) == 304
    state = replay.init_replay(10, 23, 28)
    assert sum(x.nbytes for x in jax.tree.leaves(state.data)) == 10 * 304
    assert state.data.obs.dtype == jnp.float32
