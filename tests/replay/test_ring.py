"""Ring buffer: wrap-around, sampling only what is valid, transition by transition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynvgd_jax.core.types import Transition
from dynvgd_jax.replay import ring as replay


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


@pytest.mark.parametrize("done", [0.0, 1.0])
def test_look_ahead_by_hand(done):
    # Two environments by turns, six slots of which slot 2 is the oldest: environment 0
    # is 2, 4, 0 and environment 1 is 3, 5, 1, whose episode ended in slot 5: slot 1
    # begins elsewhere. That end is stored as done, or not (a time limit).
    data = numbered(range(6))._replace(
        reward=np.float32([1, 2, 4, 8, 16, 32]),
        next_obs=np.repeat(np.float32([[20], [21], [4], [5], [0], [25]]), 3, 1),
        done=np.float32([0, 0, 0, 0, 0, done]),
    )
    data = Transition(*map(jnp.asarray, data))
    state = replay.ReplayState(data, jnp.int32(2), jnp.int32(6))
    window = replay.Window(steps=3, stride=2, gamma=0.5)
    found = replay.look_ahead(state, jnp.arange(6), window)
    # Slot 0: newest of its environment, one chunk. Slot 1: after the end, one chunk.
    # Slot 2: 4 + 16/2 + 1/4. Slot 3: 8 + 32/2 and the end. Slot 4: 16 + 1/2. Slot 5:
    # 32, the end.
    np.testing.assert_allclose(found.reward, [1, 2, 12.25, 24, 16.5, 32])
    np.testing.assert_array_equal(found.next_obs[:, 0], [20, 21, 20, 25, 20, 25])
    # 1 - gamma^(m - 1) for m = 1, 1, 3, 2, 2, 1; 1 where the end is stored as done.
    ended = [1, 1] if done else [0.5, 0]
    np.testing.assert_allclose(found.done, [0, 0, 0.75, ended[0], 0.5, ended[1]])
    np.testing.assert_array_equal(found.obs[:, 0], np.arange(6))


@pytest.mark.parametrize("steps", [1, 2, 5, 40])
def test_look_ahead_agrees_with_a_walk_through_the_episodes(steps):
    """Random episodes of three environments, the buffer overwritten three times."""
    rng = np.random.default_rng(steps)
    capacity, envs, gamma = 20, 3, 0.9
    state, history = replay.init_replay(capacity, 3, 2), []
    for step in range(23):
        numbers = envs * step + np.arange(envs)
        over, done = rng.random((2, envs)) < [[0.2], [0.5]]
        # Where an episode is over, the next transition begins elsewhere.
        next_obs = np.where(over, 1000, numbers + envs).astype(np.float32)
        fresh = numbered(numbers)._replace(
            done=np.float32(over & done), next_obs=np.repeat(next_obs[:, None], 3, 1)
        )
        history += [Transition(*(leaf[i] for leaf in fresh)) for i in range(envs)]
        state = replay.add(state, fresh)
    batch = jax.jit(replay.sample, static_argnums=(2, 3, 4))(
        state, jax.random.key(0), (30, 20), 0, replay.Window(steps, envs, gamma)
    )
    assert set(np.unique(batch.obs[..., 0])) == set(range(49, 69))
    value = 7.0  # whatever the bootstrap is
    for index in np.ndindex(30, 20):
        number, y, discount = int(batch.obs[index][0]), 0.0, 1.0
        for _ in range(steps):
            now = history[number]
            y += discount * now.reward
            discount *= gamma
            if now.next_obs[0] == 1000 or number + envs >= len(history):
                break
            number += envs
        y += (1 - now.done) * discount * value
        got = batch.reward[index] + (1 - batch.done[index]) * gamma * value
        np.testing.assert_allclose(got, y, rtol=1e-5)
        np.testing.assert_array_equal(batch.next_obs[index], now.next_obs)


def test_offline_transitions_reach_over_one_chunk_whatever_the_window():
    state = replay.init_replay(5, 3, 2, offline=numbered(range(1000, 1010)))
    chain = np.repeat(np.float32([[4], [6], [306]]), 3, 1)
    state = replay.add(state, numbered([2, 4, 6])._replace(next_obs=chain))
    window = replay.Window(steps=3, stride=1, gamma=0.5)
    batch = replay.sample(state, jax.random.key(0), (50, 8), 3, window)
    n = np.asarray(batch.obs[:, :3, 0])
    np.testing.assert_array_equal(batch.reward[:, :3], n + 200)
    np.testing.assert_array_equal(batch.next_obs[:, :3, 0], n + 300)
    assert set(np.unique(batch.next_obs[:, 3:, 0])) == {306}


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
