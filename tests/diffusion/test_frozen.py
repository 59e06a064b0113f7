"""The folded network: DiffusionMLP's values, from about half of its operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynvgd_jax.diffusion.base import sample
from dynvgd_jax.diffusion.ddim import make_ddim
from dynvgd_jax.diffusion.diffusion_mlp import decode_eps_fn
from dynvgd_jax.diffusion.frozen import freeze
from dynvgd_jax.diffusion.network import DiffusionMLP
from dynvgd_jax.diffusion.schedule import cosine_schedule, ddim_schedule
from tests.diffusion.helpers import random_params
from tests.diffusion.test_network import VARIANTS, build, reference_kwargs
from tests.support import reference


@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)
def test_agrees_with_float64(fields):
    net, params, x, obs = build(**fields)
    eps = jax.jit(decode_eps_fn(net, params))(x, jnp.asarray(14), obs)
    steps = np.full(len(x), 14)
    expected = reference.network(params, x, steps, obs, **reference_kwargs(fields))
    np.testing.assert_allclose(eps, expected, atol=2e-5, rtol=2e-5)


def test_decode_agrees_with_float64_and_encodes_observations_once():
    fields = VARIANTS["square"]
    net, _, noise, obs = build(**fields)
    params = random_params(net, seed=3, out_scale=8)
    schedule = ddim_schedule(cosine_schedule(100), 8)
    denoiser = make_ddim(lambda params: decode_eps_fn(net, params), schedule)
    decode = jax.jit(lambda x, obs: sample(denoiser, params, x, obs))
    decode = decode.lower(noise, obs).compile()

    def eps64(x, t, obs):
        steps = np.full(len(x), t)
        return reference.network(params, x, steps, obs, **reference_kwargs(fields))

    expected = reference.ddim_decode(eps64, noise, obs, 100, 8)
    np.testing.assert_allclose(decode(noise, obs), expected, atol=2e-5)
    assert 0.05 < np.std(expected) and np.mean(np.abs(expected) == 1) < 0.9

    products = [line for line in decode.as_text().splitlines() if " dot(" in line]
    for name, count in (("cond_0", 1), ("trunk_condition", 1), ("block_0_l1", 8)):
        assert sum(f"/{name}/dot_general" in line for line in products) == count, name


def test_an_evaluation_takes_half_the_operations():
    # Square's network, B = 64 rows. Not folded: 23*512 + 512*64 + 124*1024 + 2*1024^2
    # + 1024*28 multiplications a row. Folded, without what a decode computes once
    # (23*512 + 512*64 + 64*(1024 + 28)): (28 + 1024)*1024 + 28*(28 + 1024).
    net = DiffusionMLP(23, 7, 4, 32, (1024,) * 3, (512, 64))
    params = random_params(net)
    x, obs, t = jnp.zeros((64, 4, 7)), jnp.zeros((64, 23)), jnp.asarray(3)

    def flops(network, params):
        fn = jax.jit(lambda p, x, t, o: network.apply({"params": p}, x, t, o))
        return fn.lower(params, x, t, obs).cost_analysis()["flops"]

    once = 23 * 512 + 512 * 64 + 64 * (1024 + 28)
    folded = 1052 * 1024 + 28 * 1052 + once
    whole = 23 * 512 + 512 * 64 + 124 * 1024 + 2 * 1024**2 + 1024 * 28
    assert flops(net, params) == pytest.approx(2 * 64 * whole, rel=0.02)
    assert flops(*freeze(net, params)) == pytest.approx(2 * 64 * folded, rel=0.02)
