"""Critic ensemble: initialisation, shapes, agreement with the float64 reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynvgd_jax.steering.critics.mlp import FEW_ROWS, CriticEnsemble, init_ensemble
from tests.steering import reference

OBS, ACT, BATCH = 5, 6, 7


@pytest.fixture
def critics():
    ensemble = CriticEnsemble(num=4, width=16, depth=3)
    return ensemble, init_ensemble(ensemble, jax.random.key(0), OBS, ACT)


def inputs(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(BATCH, OBS)), rng.normal(size=(BATCH, ACT))


def test_published_shapes_and_parameter_count():
    ensemble = CriticEnsemble(num=4, width=2048, depth=3)
    shapes = jax.eval_shape(lambda: init_ensemble(ensemble, jax.random.key(0), 23, 28))
    # One critic: 51*2048 + 2048 in, two 2048*2048 + 2048, three norms of 2 * 2048,
    # 2048 + 1 out = 8,513,537.
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert count == 4 * 8_513_537


def test_members_start_different_within_pytorchs_bounds(critics):
    _, params = critics
    kernel = np.asarray(params["params"]["critics"]["hidden_1"]["kernel"])
    assert kernel.shape == (4, 16, 16)
    assert not np.allclose(kernel[0], kernel[1])
    # Uniform in +-1/sqrt(16) = +-0.25: bounded, and reaching most of the range.
    assert 0.24 < np.abs(kernel).max() <= 0.25
    bias = np.asarray(params["params"]["critics"]["hidden_0"]["bias"])
    assert 0 < np.abs(bias).max() <= 1 / np.sqrt(OBS + ACT)


def test_critics_can_start_from_a_value(critics):
    """It is added to every critic's Q and changes no other draw."""
    ensemble, params = critics
    moved = init_ensemble(ensemble, jax.random.key(0), OBS, ACT, initial_value=-100.0)
    obs, act = (jnp.float32(x) for x in inputs())
    q, moved_q = (ensemble.apply(p, obs, act) for p in (params, moved))
    np.testing.assert_allclose(moved_q, q - 100.0, rtol=1e-6)
    for tree in (params, moved):
        del tree["params"]["critics"]["out"]["bias"]
    jax.tree.map(np.testing.assert_array_equal, params, moved)


def test_forward_agrees_with_float64(critics):
    ensemble, params = critics
    obs, act = inputs()
    q = ensemble.apply(params, jnp.float32(obs), jnp.float32(act))
    expected = reference.ensemble_q(reference.unstack(params), obs, act)
    assert q.shape == (4, BATCH)
    np.testing.assert_allclose(q, expected, atol=2e-6)


@pytest.mark.parametrize("reduce", ["min", "mean"])
def test_input_gradient_agrees_with_hand_written_backward(critics, reduce):
    ensemble, params = critics
    obs, act = inputs(1)
    combine = {"min": jnp.min, "mean": jnp.mean}[reduce]
    grad = jax.grad(
        lambda a: combine(ensemble.apply(params, jnp.float32(obs), a), axis=0).sum()
    )(jnp.float32(act))
    expected, _ = reference.value_gradient(reference.unstack(params), obs, act, reduce)
    np.testing.assert_allclose(grad, expected, atol=2e-6)


def test_reference_backward_agrees_with_finite_differences(critics):
    _, params = critics
    members = reference.unstack(params)
    obs, act = inputs(2)
    grad, _ = reference.value_gradient(members, obs, act, "min")
    numeric = np.zeros_like(act)
    for j in range(ACT):
        step = np.zeros(ACT)
        step[j] = 1e-6
        up = reference.ensemble_q(members, obs, act + step).min(0)
        down = reference.ensemble_q(members, obs, act - step).min(0)
        numeric[:, j] = (up - down) / 2e-6
    np.testing.assert_allclose(grad, numeric, atol=1e-8)


def test_vmapped_members_equal_a_loop(critics):
    ensemble, params = critics
    obs, act = inputs(3)
    obs, act = jnp.float32(obs), jnp.float32(act)
    together = ensemble.apply(params, obs, act)
    single = CriticEnsemble(num=1, width=16, depth=3)
    for i in range(4):
        own = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], params)
        np.testing.assert_allclose(
            single.apply(own, obs, act)[0], together[i], atol=1e-6
        )


@pytest.mark.parametrize("rows", [1, FEW_ROWS, FEW_ROWS + 1])
def test_gradients_of_few_and_of_many_rows(critics, rows):
    """Up to FEW_ROWS rows the backward products are written another way."""
    ensemble, params = critics
    rng = np.random.default_rng(4)
    obs, act = rng.normal(size=(rows, OBS)), rng.normal(size=(rows, ACT))
    apply = lambda p, a: ensemble.apply(p, jnp.float32(obs), a)  # noqa: E731
    q, pull_back = jax.vjp(apply, params, jnp.float32(act))
    dq = rng.normal(size=q.shape)
    of_params, of_action = pull_back(jnp.float32(dq))
    x, expected = np.concatenate([obs, act], -1), np.zeros_like(act)
    for i, critic in enumerate(reference.unstack(params)):
        _, tape = reference.critic_forward(critic, x)
        dx, grads = reference.critic_backward(critic, tape, dq[i])
        expected += dx[:, OBS:]
        kernel = of_params["params"]["critics"]["hidden_1"]["kernel"][i]
        np.testing.assert_allclose(kernel, grads["hidden_1"]["kernel"], atol=5e-5)
    np.testing.assert_allclose(of_action, expected, atol=5e-6)
