"""The DDIM decode against a float64 reference, and its limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynvgd_jax.diffusion.base import decode, sample, step, step_range
from dynvgd_jax.diffusion.ddim import make_ddim
from dynvgd_jax.diffusion.network import DiffusionMLP, bind
from dynvgd_jax.diffusion.schedule import cosine_schedule, ddim_schedule
from tests.diffusion.helpers import random_params
from tests.support import reference

NET = dict(time_dim=16, hidden_dims=(64, 64, 64), cond_dims=(32, 16))


@functools.cache
def setup():
    net = DiffusionMLP(23, 7, 4, **NET)
    # A larger output makes the predicted noise about unit size.
    params = random_params(net, seed=3, out_scale=8)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(6, 4, 7)).astype(np.float32)
    obs = rng.uniform(-1, 1, size=(6, 23)).astype(np.float32)

    def eps64(x, t, obs):
        return reference.network(params, x, np.full(len(x), t), obs, **NET)

    return jax.jit(bind(net, params)), eps64, noise, obs


def ddim(num_train, steps):
    """The denoiser whose parameters are the noise prediction itself."""
    schedule = ddim_schedule(cosine_schedule(num_train), steps)
    return make_ddim(lambda eps_fn: eps_fn, schedule)


@pytest.mark.parametrize("num_train", [20, 100])
@pytest.mark.parametrize("steps", [4, 8])
def test_ddim_agrees_with_float64(num_train, steps):
    eps_fn, eps64, noise, obs = setup()
    denoiser = ddim(num_train, steps)
    x = sample(denoiser, eps_fn, noise, obs)
    expected = reference.ddim_decode(eps64, noise, obs, num_train, steps)
    np.testing.assert_allclose(x, expected, atol=2e-5)
    assert denoiser.num_steps == steps
    assert 0.05 < np.std(expected) and np.mean(np.abs(expected) == 1) < 0.9


def test_jit_agrees_with_eager():
    eps_fn, _, noise, obs = setup()
    run = functools.partial(sample, ddim(20, 4), eps_fn)
    np.testing.assert_allclose(jax.jit(run)(noise, obs), run(noise, obs), atol=2e-6)


@pytest.mark.parametrize("split", [0, 3, 5, 8])
def test_prefix_and_suffix_are_the_whole(split):
    eps_fn, _, noise, obs = setup()
    denoiser = ddim(20, 8)
    whole = decode(denoiser, eps_fn, noise, obs)
    x = decode(denoiser, eps_fn, noise, obs, end_k=split)
    x = decode(denoiser, eps_fn, x, obs, first_k=split)
    assert np.array_equal(x, whole)
    assert float(jnp.max(jnp.abs(whole))) <= 1.0


def test_a_step_goes_on_from_another_estimate_with_its_own_noise():
    """Of the estimate as it is that is the plain step; the last one keeps no noise."""
    eps_fn, _, noise, obs = setup()
    denoiser, schedule = ddim(20, 4), ddim_schedule(cosine_schedule(20), 4)
    for k in range(4):
        x0, residual = denoiser.estimate(eps_fn, noise, k, obs)
        plain = step(denoiser, eps_fn, noise, k, obs)
        np.testing.assert_array_equal(denoiser.advance(x0, residual, k), plain)
        moved = denoiser.advance(x0 + 0.25, residual, k)
        share = np.sqrt(schedule.alpha_prev[k])
        np.testing.assert_allclose(moved, plain + 0.25 * share, atol=2e-6)
    np.testing.assert_array_equal(plain, x0)


def test_noise_is_put_back_at_the_old_timestep():
    eps_fn, _, noise, obs = setup()
    denoiser, schedule = ddim(20, 4), ddim_schedule(cosine_schedule(20), 4)
    x0 = 0.1 * noise
    for k in range(3):
        a = np.float64(schedule.alpha_prev[k])
        eps = eps_fn(noise, jnp.asarray(schedule.t[k]), obs)
        expected = np.sqrt(a) * x0 + np.sqrt(1 - a) * eps
        found = denoiser.renoise(eps_fn, noise, x0, k, obs)
        np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_array_equal(denoiser.renoise(eps_fn, noise, x0, 3, obs), x0)


def test_bad_range():
    eps_fn, _, noise, obs = setup()
    with pytest.raises(ValueError, match="range"):
        decode(ddim(20, 4), eps_fn, noise, obs, first_k=3, end_k=2)
    with pytest.raises(ValueError, match=r"found steps 0 to 5, .* inside 0\.\.4"):
        step_range(ddim(20, 4), 0, 5)
