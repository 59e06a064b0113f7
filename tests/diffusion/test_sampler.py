"""The decodes against float64 references, and their limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynvgd_jax.diffusion.network import DiffusionMLP
from dynvgd_jax.diffusion.policy import make_eps_fn
from dynvgd_jax.diffusion.sampler import ddim_decode, ddpm_decode
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

    return jax.jit(make_eps_fn(net, params)), eps64, noise, obs


def pull(obs, z, k):
    """A guide that depends on everything it receives; the same in NumPy and JAX."""
    return 0.8 * z + 0.02 * (k + 1) * obs[:, :1, None].reshape(-1, 1, 1) * z, {"k": k}


def pull64(obs, z, k):
    return pull(np.float64(obs), z, k)[0]


@pytest.mark.parametrize("num_train", [20, 100])
@pytest.mark.parametrize("steps", [4, 8])
def test_ddim_agrees_with_float64(num_train, steps):
    eps_fn, eps64, noise, obs = setup()
    schedule = ddim_schedule(cosine_schedule(num_train), steps)
    x, stats = ddim_decode(eps_fn, schedule, noise, obs)
    expected = reference.ddim_decode(eps64, noise, obs, num_train, steps)
    np.testing.assert_allclose(x, expected, atol=2e-5)
    assert stats == []
    assert 0.05 < np.std(expected) and np.mean(np.abs(expected) == 1) < 0.9


@pytest.mark.parametrize("num_train", [20, 100])
@pytest.mark.parametrize("guide_from_k", [0, 1, 3])
def test_guided_decode_agrees_with_float64(num_train, guide_from_k):
    eps_fn, eps64, noise, obs = setup()
    schedule = ddim_schedule(cosine_schedule(num_train), 4)
    x, stats = ddim_decode(
        eps_fn, schedule, noise, obs, guide_fn=pull, guide_from_k=guide_from_k
    )
    expected = reference.ddim_decode(
        eps64, noise, obs, num_train, 4, pull64, guide_from_k
    )
    plain = reference.ddim_decode(eps64, noise, obs, num_train, 4)
    np.testing.assert_allclose(x, expected, atol=2e-5)
    assert np.max(np.abs(expected - plain)) > 0.02
    assert [s["k"] for s in stats] == list(range(guide_from_k, 4))


@pytest.mark.parametrize("jit", [True, False])
def test_no_guidance_is_plain_bit_for_bit(jit):
    eps_fn, _, noise, obs = setup()
    schedule = ddim_schedule(cosine_schedule(20), 8)

    def decode(**options):
        def run(noise, obs):
            return ddim_decode(eps_fn, schedule, noise, obs, **options)[0]

        return np.asarray((jax.jit(run) if jit else run)(noise, obs))

    assert np.array_equal(decode(), decode(guide_fn=pull, guide_from_k=8))
    assert np.array_equal(decode(), decode(guide_from_k=2))


def test_jit_agrees_with_eager():
    eps_fn, _, noise, obs = setup()
    schedule = ddim_schedule(cosine_schedule(20), 4)
    run = functools.partial(ddim_decode, eps_fn, schedule, guide_fn=pull)
    np.testing.assert_allclose(
        jax.jit(lambda x, o: run(x, o)[0])(noise, obs), run(noise, obs)[0], atol=2e-6
    )


@pytest.mark.parametrize("split", [0, 3, 5, 8])
def test_prefix_and_suffix_are_the_whole(split):
    eps_fn, _, noise, obs = setup()
    schedule = ddim_schedule(cosine_schedule(20), 8)
    options = dict(guide_fn=pull, guide_from_k=5, final_clip=0.4)
    whole, stats = ddim_decode(eps_fn, schedule, noise, obs, **options)
    x, early = ddim_decode(eps_fn, schedule, noise, obs, end_k=split, **options)
    x, late = ddim_decode(eps_fn, schedule, x, obs, first_k=split, **options)
    assert np.array_equal(x, whole) and len(early) + len(late) == len(stats)
    assert float(jnp.max(jnp.abs(whole))) <= np.float32(0.4)


def test_final_clip_only_after_the_last_step():
    eps_fn, _, noise, obs = setup()
    schedule = ddim_schedule(cosine_schedule(20), 4)
    clipped = ddim_decode(eps_fn, schedule, noise, obs, final_clip=0.3)[0]
    free = ddim_decode(eps_fn, schedule, noise, obs)[0]
    assert float(jnp.max(jnp.abs(free))) > 0.3
    assert np.array_equal(clipped, np.clip(free, -0.3, 0.3))
    part = ddim_decode(eps_fn, schedule, noise, obs, end_k=2, final_clip=0.3)[0]
    assert np.array_equal(part, ddim_decode(eps_fn, schedule, noise, obs, end_k=2)[0])


def test_old_timestep_at_the_advanced_x():
    # Records the timesteps that the network sees: K = 2, guided at k = 0 and 1.
    # k = 0: plain step (t = 10), rest (t = 0), noise again at t = 10;
    # k = 1: plain step (t = 0), no rest, no noise left.
    seen = []

    def eps_fn(x, t, obs):
        seen.append(int(t))
        return jnp.zeros_like(x)

    schedule = ddim_schedule(cosine_schedule(20), 2)
    noise, obs = jnp.ones((1, 2, 3)), jnp.ones((1, 4))
    ddim_decode(eps_fn, schedule, noise, obs, guide_fn=pull)
    assert seen == [10, 0, 10, 0]


def test_bad_range():
    eps_fn, _, noise, obs = setup()
    schedule = ddim_schedule(cosine_schedule(20), 4)
    with pytest.raises(ValueError, match="range"):
        ddim_decode(eps_fn, schedule, noise, obs, first_k=3, end_k=2)


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
    whole = ddpm_decode(eps_fn, schedule, key, noise, obs, final_clip=0.5)
    x = ddpm_decode(eps_fn, schedule, key, noise, obs, t_end=7, final_clip=0.5)
    x = ddpm_decode(eps_fn, schedule, key, x, obs, t_start=6, final_clip=0.5)
    np.testing.assert_allclose(x, whole, atol=1e-6)
    assert float(jnp.max(jnp.abs(whole))) == 0.5


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
