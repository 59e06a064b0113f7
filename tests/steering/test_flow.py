"""Steering a flow policy: the guided decode in float64, and every method."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynvgd_jax.diffusion.base import decode
from dynvgd_jax.diffusion.flow import make_euler
from dynvgd_jax.steering import guidance as G
from dynvgd_jax.steering.methods import METHODS
from dynvgd_jax.steering.weight import Weighting
from tests.steering import reference, test_methods, toy
from tests.steering.test_guidance import setup

STEPS = 4


def guided(options, ensemble, params, obs, noise, td_error=7.0):
    """The decode of the toy velocity, guided by `ensemble` as `options` say."""
    denoiser = make_euler(toy.make_eps_fn, STEPS)

    def run(weights, params, noise, obs):
        guide_fn = G.make_guide_fn(
            options,
            STEPS,
            lambda o, a: ensemble.apply(params, o, a),
            jnp.float32(td_error),
            jnp.float32(options.scale),
        )
        steps, prepared = G.guided_steps(options, STEPS), denoiser.prepare(weights)
        plain = decode(denoiser, prepared, noise, obs)
        inputs = (noise, obs, guide_fn, steps, options.point)
        return plain, *G.guided_decode(denoiser, prepared, *inputs)

    weights = toy.to_jax(toy.weights())
    return jax.jit(run)(weights, params, jnp.float32(noise), jnp.float32(obs))


@pytest.mark.parametrize(
    ("point", "last_k", "first_k", "changes"),
    [
        ("decoded", 0, 0, {"reduce": "mean"}),
        ("decoded", 2, 0, {"time_anneal": "cosine"}),
        ("decoded", 3, 2, {"dynamic": False}),
        ("estimate", 0, 0, {}),
        ("estimate", 0, 2, {"time_anneal": "off", "reduce": "mean"}),
        ("estimate", 3, 0, {"dynamic": False, "time_anneal": "cosine"}),
    ],
)
def test_guided_decode_agrees_with_float64(point, last_k, first_k, changes):
    ensemble, params, obs, noise = setup()
    options = G.Guidance(
        scale=0.02,
        last_k=last_k,
        first_k=first_k,
        point=point,
        weighting=Weighting(c_local=2.0),
        **changes,
    )
    plain, x, stats = guided(options, ensemble, params, obs, noise)
    expected = reference.guided_flow(
        toy.make_eps_fn(toy.weights(), np),
        STEPS,
        reference.unstack(params),
        noise,
        obs,
        options,
        td_error=7.0,
    )
    assert len(stats) == (first_k or STEPS) - (STEPS - last_k if last_k else 0)
    assert np.abs(expected - plain).max() > 1e-3  # guidance did something
    np.testing.assert_allclose(x, expected, atol=5e-6)


@pytest.mark.parametrize("point", G.POINTS)
def test_without_a_scale_it_is_the_plain_decode_bit_for_bit(point):
    options = G.Guidance(scale=0.0, point=point)
    plain, x, stats = guided(options, *setup())
    np.testing.assert_array_equal(x, plain)
    assert stats == []


def test_a_push_that_does_nothing_leaves_the_estimates_decode_as_it_is():
    """Unlike DDIM's published step, a step's own noise is all that the rest needs."""
    options = G.Guidance(scale=1e-30, last_k=0, point="estimate")
    plain, x, _ = guided(options, *setup())
    np.testing.assert_allclose(x, plain, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_steers_a_flow(name, monkeypatch):
    from tests.diffusion.test_flow import make_policy

    policy = make_policy()
    monkeypatch.setattr(test_methods, "make_policy", lambda: policy)
    method = test_methods.build(name)
    state = jax.jit(method.init)(jax.random.key(0))
    inputs = test_methods.act_inputs(evaluating=True)
    chunk = jax.jit(method.act)(state, policy.params, inputs).chunk
    assert chunk.shape == (test_methods.ENVS, 4, 2)
    assert np.isfinite(chunk).all() and np.abs(chunk).max() <= 1.5
    noise = np.float32(np.random.default_rng(1).normal(size=chunk.shape))
    if name == "base":
        given = inputs._replace(noise=noise)
        found = jax.jit(method.act)(state, policy.params, given).chunk
        alone = policy.sample(inputs.obs, noise, 2)
        np.testing.assert_allclose(found, alone, atol=2e-6)
