"""Start noises belong to the episode and its chunk, whoever plays it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynvgd_jax.diffusion.base import sample
from dynvgd_jax.steering import noise as noises
from tests.steering import toy


def test_held_noise_stays_for_its_chunks_and_episodes_take_turns():
    key, seeds = jax.random.key(0), jnp.uint32([0, 1, 2, 3, 4])
    held = jax.jit(
        lambda index: noises.held_noise(
            ("tanh_randn", "randn"), (1, 3), key, seeds, index, (4, 2)
        )
    )
    noise = np.stack([held(jnp.full(5, c, jnp.int32)) for c in range(7)])
    # Seeds modulo 4: (tanh, 1), (tanh, 3), (randn, 1), (randn, 3), (tanh, 1).
    for episode, hold in enumerate((1, 3, 1, 3, 1)):
        changes = [
            not np.array_equal(a, b)
            for a, b in zip(noise[:-1, episode], noise[1:, episode], strict=True)
        ]
        assert changes == [(c + 1) % hold == 0 for c in range(6)]
    kinds = [np.abs(noise[:, e]).max() > 1 for e in range(5)]
    assert kinds == [False, False, True, True, False]
    plain = noises.held_noise(("randn",), (1,), key, seeds, jnp.full(5, 6), (4, 2))
    np.testing.assert_array_equal(
        plain, noises.start_noise("randn", key, seeds, jnp.full(5, 6), (4, 2))
    )


@pytest.mark.parametrize("kind", sorted(noises.START_NOISES))
def test_start_noise_belongs_to_the_episode_not_to_the_slot(kind):
    key = jax.random.key(0)
    seeds = jnp.uint32([11, 22, 33])
    index = jnp.int32([0, 4, 4])
    noise = noises.start_noise(kind, key, seeds, index, toy.CHUNK)
    swapped = noises.start_noise(kind, key, seeds[::-1], index[::-1], toy.CHUNK)
    np.testing.assert_array_equal(noise, swapped[::-1])
    alone = noises.start_noise(kind, key, seeds[1:2], index[1:2], toy.CHUNK)
    np.testing.assert_array_equal(noise[1], alone[0])
    assert np.abs(noise).max() > 0.5 and not np.array_equal(noise[1], noise[2])


def test_tanh_noise_is_the_tanh_of_randn():
    arguments = (jax.random.key(0), jnp.uint32([5]), jnp.int32([2]), (50, 50))
    randn = noises.start_noise("randn", *arguments)
    np.testing.assert_array_equal(
        noises.start_noise("tanh_randn", *arguments), jnp.tanh(randn)
    )
    assert abs(float(randn.std()) - 1) < 0.05


@pytest.mark.parametrize("configured", [(), ("randn", "tanh_randn")])
def test_first_rollouts_are_the_unguided_policy_from_held_noise(configured):
    """Without kinds of their own they take that of acting."""
    setting = toy.setting()
    setting.config.explore.noises = configured
    setting.config.explore.hold_chunks = (2,)
    params = toy.to_jax(toy.weights())
    seeds, index = jnp.uint32([3, 8]), jnp.int32([1, 5])
    obs = jax.random.normal(jax.random.key(1), (2, toy.OBS_DIM))
    inputs = toy.inputs(obs, None)._replace(
        key=jax.random.key(4), seeds=seeds, chunk_index=index
    )
    decision = jax.jit(noises.make_explore(setting))(params, inputs)
    kinds = configured or ("tanh_randn",)
    noise = noises.held_noise(
        kinds, (2,), jax.random.key(4), seeds, index, setting.chunk_shape
    )
    expected = jax.jit(lambda *a: sample(setting.denoiser, *a))(params, noise, obs)
    np.testing.assert_allclose(decision.chunk, expected, atol=2e-6)
    assert decision.extras == {} and decision.metrics == {}
