"""DDPM against a float64 reference and known moments; the loss of training."""

import jax
import jax.numpy as jnp
import numpy as np

from dynvgd_jax.diffusion.ddpm import ddpm_decode, denoising_loss
from dynvgd_jax.diffusion.network import DiffusionMLP
from dynvgd_jax.diffusion.schedule import cosine_schedule
from tests.diffusion.helpers import random_params
from tests.diffusion.test_ddim import setup
from tests.support import reference

SMALL = DiffusionMLP(3, 2, 4, hidden_dims=(16, 16, 16))
SMALL_KWARGS = {"time_dim": 16, "hidden_dims": (16, 16, 16)}


def test_ddpm_agrees_with_float64():
    eps_fn, eps64, noise, obs = setup()
    key = jax.random.key(5)
    step_noise = [
        np.clip(jax.random.normal(jax.random.fold_in(key, t), noise.shape), -1.5, 1.5)
        for t in range(20)
    ]
    schedule = cosine_schedule(20)
    x = ddpm_decode(eps_fn, schedule, key, noise, obs, randn_clip=1.5)
    expected = reference.ddpm_decode(eps64, noise, obs, 20, step_noise)
    np.testing.assert_allclose(x, expected, atol=1e-4)


def test_ddpm_in_two_parts():
    eps_fn, _, noise, obs = setup()
    schedule, key = cosine_schedule(20), jax.random.key(5)
    whole = ddpm_decode(eps_fn, schedule, key, noise, obs)
    x = ddpm_decode(eps_fn, schedule, key, noise, obs, t_end=7)
    x = ddpm_decode(eps_fn, schedule, key, x, obs, t_start=6)
    np.testing.assert_allclose(x, whole, atol=1e-6)
    assert float(jnp.max(jnp.abs(whole))) > 0.5


def test_ddpm_moments():
    # Clean actions 0 and 0.6 with equal odds; the ideal noise prediction is
    # E[eps | x_t]. Ancestral sampling must give back both, half and half.
    schedule = cosine_schedule(100)
    points = jnp.array([0.0, 0.6])

    def eps_fn(x, t, obs):
        alpha = jnp.asarray(schedule.alphas_cumprod)[t]
        distance = (x[..., None] - jnp.sqrt(alpha) * points[None, None, None, :]) ** 2
        weights = jax.nn.softmax(-distance / (2 * (1 - alpha)), axis=-1)
        x0 = jnp.sum(weights * points[None, None, None, :], axis=-1)
        return (x - jnp.sqrt(alpha) * x0) / jnp.sqrt(1 - alpha)

    noise = jax.random.normal(jax.random.key(0), (20000, 1, 1))
    x = ddpm_decode(eps_fn, schedule, jax.random.key(1), noise, jnp.zeros((20000, 1)))
    # Mean 0.3 and standard deviation 0.3, with error 0.3 / sqrt(20000) = 0.002.
    assert abs(float(jnp.mean(x)) - 0.3) < 0.01
    assert abs(float(jnp.std(x)) - 0.3) < 0.01
    near = jnp.min(jnp.abs(x[..., None] - points[None, None, None, :]), axis=-1)
    assert float(jnp.mean(near < 0.05)) > 0.98


def test_loss_agrees_with_float64():
    params, schedule, key = random_params(SMALL), cosine_schedule(20), jax.random.key(4)
    rng = np.random.default_rng(0)
    obs = jnp.float32(rng.uniform(-1, 1, (6, 3)))
    actions = jnp.float32(rng.uniform(-1, 1, (6, 4, 2)))
    seen = []

    def eps_fn(x_t, t, obs):
        seen.extend([np.asarray(x_t), np.asarray(t)])
        return SMALL.apply({"params": params}, x_t, t, obs)

    loss = denoising_loss(eps_fn, schedule, key, obs, actions)
    x_t, t = seen
    abar = reference.alphas_cumprod(20)[t][:, None, None]
    noise = (x_t - np.sqrt(abar) * np.float64(actions)) / np.sqrt(1 - abar)
    assert np.abs(noise.mean()) < 0.5 and 0.7 < noise.std() < 1.3
    eps = reference.network(params, x_t, t, obs, **SMALL_KWARGS)
    np.testing.assert_allclose(loss, np.mean((eps - noise) ** 2), rtol=1e-4)


def test_every_timestep_is_drawn():
    times = []

    def eps_fn(x_t, t, obs):
        times.append(np.asarray(t))
        return x_t

    zeros = jnp.zeros((4000, 4, 2)), jnp.zeros((4000, 3))
    schedule, key = cosine_schedule(20), jax.random.key(0)
    denoising_loss(eps_fn, schedule, key, zeros[1], zeros[0])
    counts = np.bincount(times[0], minlength=20)
    # 200 expected of each, standard deviation sqrt(4000 * 0.05 * 0.95) = 14.
    assert len(counts) == 20 and counts.min() > 140 and counts.max() < 260
