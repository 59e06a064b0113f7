"""The ring in host memory: what the device's holds and draws, in NumPy."""

import jax
import numpy as np
import pytest

from dynvgd_jax.replay import ring
from dynvgd_jax.replay.host import HostRing
from dynvgd_jax.replay.ring import Window
from tests.support.stored import (
    EXAMPLE,
    EXAMPLE_WITH_BOTH,
    assert_followed,
    assert_same_bits,
    numbered,
    random_extras,
    random_history,
    walked,
)

CAPACITY, ENVS = 20, 3


def filled(history):
    """Both rings after the same vector steps."""
    host = HostRing(CAPACITY, EXAMPLE)
    device, add = ring.init_replay(CAPACITY, EXAMPLE), jax.jit(ring.add)
    for fresh in history:
        host.add(fresh)
        device = add(device, fresh)
    return host, device


@pytest.mark.parametrize("vector_steps", [0, 1, 6, 7, 23])
def test_holds_what_the_device_holds(vector_steps):
    host, device = filled(random_history(0, vector_steps, ENVS))
    jax.tree.map(assert_same_bits, host.data, device.data)
    assert host.total == vector_steps * ENVS


@pytest.mark.parametrize("steps", [1, 2, 5, 40])
@pytest.mark.parametrize("vector_steps", [4, 23])
def test_windows_are_the_devices(steps, vector_steps):
    """The same slots give the same values, as both say and as a walk says."""
    history, gamma = random_history(steps, vector_steps, ENVS), 0.9
    host, device = filled(history)
    window = Window(gamma, steps, ENVS, follow=True)
    batch, _ = host.sample(np.random.default_rng(3), (50, 6), window)
    assert_followed(batch, host.total)
    oldest = max(0, host.total - CAPACITY)
    numbers = batch.obs[..., 0].astype(int)
    assert set(numbers.ravel()) == set(range(oldest, host.total))
    slots = numbers % CAPACITY
    expected = jax.jit(ring.look_ahead, static_argnums=3)(
        device.data, device.cursor, slots, window
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(batch)} == {
        np.dtype(np.float32),
        np.dtype(bool),
    }
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), batch, expected
    )
    for index in np.ndindex(50, 6):
        reward, discount, next_obs = walked(
            history, int(numbers[index]), steps, ENVS, gamma
        )
        np.testing.assert_allclose(batch.reward[index], reward, rtol=1e-5)
        np.testing.assert_allclose(batch.discount[index], discount, rtol=1e-5)
        np.testing.assert_array_equal(batch.next_obs[index], next_obs)


def test_offline_transitions_are_drawn_beside_and_reach_over_one_chunk():
    host = HostRing(CAPACITY, EXAMPLE, numbered(range(1000, 1010)))
    host.add(numbered([2, 4, 6]))
    window = Window(0.5, steps=3, follow=True)
    own, offline = host.sample(np.random.default_rng(0), (8, 50), window, 3)
    assert not offline.followed_by.known.any()
    assert own.reward.shape == (5, 50) and offline.reward.shape == (3, 50)
    n = offline.obs[..., 0]
    assert set(n.ravel()) == set(range(1000, 1010))
    np.testing.assert_array_equal(offline.reward, n + 200)
    np.testing.assert_array_equal(offline.discount, 0.5 * (1 - n % 2))
    assert set(own.next_obs[..., 0].ravel()) == {306}
    _, none = host.sample(np.random.default_rng(0), (8, 50), window)
    assert none is None


@pytest.mark.parametrize("steps", [1, 3])
def test_extras_come_back_bit_for_bit(steps):
    both = {"extras": random_extras(0, 6), "next_extras": random_extras(1, 6)}
    stored = numbered(range(6))._replace(**both)
    host = HostRing(6, EXAMPLE_WITH_BOTH)
    for part in (slice(0, 4), slice(4, 6)):
        host.add(jax.tree.map(lambda leaf, p=part: leaf[p], stored))
    window = Window(0.9, steps, 2)
    batch, _ = host.sample(np.random.default_rng(0), (40,), window)
    n = batch.obs[:, 0].astype(int)
    assert set(n) == set(range(6))
    last = batch.next_obs[:, 0].astype(int) - 300
    assert (steps == 1) == (last == n).all()
    for name, values in stored.extras.items():
        assert_same_bits(batch.extras[name], values[n])
        assert_same_bits(batch.next_extras[name], stored.next_extras[name][last])


def test_a_refilled_ring_goes_on_as_the_first():
    host, _ = filled(random_history(0, 23, ENVS))
    again = HostRing(CAPACITY, EXAMPLE)
    again.refill(host.data, host.total)
    for one in (host, again):
        one.add(numbered([70, 71]))
    jax.tree.map(assert_same_bits, again.data, host.data)
    assert again.total == host.total
    draws = [
        one.sample(np.random.default_rng(5), (9,), Window(0.9))[0]
        for one in (host, again)
    ]
    jax.tree.map(assert_same_bits, *draws)
