"""Critics of a mean: initialisation, shapes, target and loss by hand, float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from dynvgd_jax.steering.critics import kinds
from dynvgd_jax.steering.critics.mlp import (
    FEW_ROWS,
    CriticEnsemble,
    MeanTarget,
    critic_loss,
    init_ensemble,
    make_mean_critic,
    mean_critic,
    td_target,
)
from tests.steering import reference

OBS, ACT, BATCH = 5, 6, 7
# Once compiled for all tests.
apply = jax.jit(CriticEnsemble.apply, static_argnums=0)


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
    q, moved_q = (apply(ensemble, p, obs, act) for p in (params, moved))
    np.testing.assert_allclose(moved_q, q - 100.0, rtol=1e-6)
    for tree in (params, moved):
        del tree["params"]["critics"]["out"]["bias"]
    jax.tree.map(np.testing.assert_array_equal, params, moved)


def test_forward_agrees_with_float64(critics):
    ensemble, params = critics
    obs, act = inputs()
    q = apply(ensemble, params, jnp.float32(obs), jnp.float32(act))
    expected = reference.ensemble_q(reference.unstack(params), obs, act)
    assert q.shape == (4, BATCH)
    np.testing.assert_allclose(q, expected, atol=2e-6)


@pytest.mark.parametrize("reduce", ["min", "mean"])
def test_input_gradient_agrees_with_hand_written_backward(critics, reduce):
    ensemble, params = critics
    obs, act = inputs(1)
    combine = {"min": jnp.min, "mean": jnp.mean}[reduce]
    value = lambda a: combine(ensemble.apply(params, obs, a), axis=0).sum()  # noqa: E731
    grad = jax.jit(jax.grad(value))(jnp.float32(act))
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
    together = apply(ensemble, params, obs, act)
    single = CriticEnsemble(num=1, width=16, depth=3)
    for i in range(4):
        own = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], params)
        np.testing.assert_allclose(
            apply(single, own, obs, act)[0], together[i], atol=1e-6
        )


@pytest.mark.parametrize("rows", [1, FEW_ROWS, FEW_ROWS + 1])
def test_gradients_of_few_and_of_many_rows(critics, rows):
    """Up to FEW_ROWS rows the backward products are written another way."""
    ensemble, params = critics
    rng = np.random.default_rng(4)
    obs, act = rng.normal(size=(rows, OBS)), rng.normal(size=(rows, ACT))
    dq = rng.normal(size=(4, rows))

    @jax.jit
    def gradients(params, action):
        q_fn = lambda p, a: ensemble.apply(p, jnp.float32(obs), a)  # noqa: E731
        return jax.vjp(q_fn, params, action)[1](jnp.float32(dq))

    of_params, of_action = gradients(params, jnp.float32(act))
    x, expected = np.concatenate([obs, act], -1), np.zeros_like(act)
    for i, critic in enumerate(reference.unstack(params)):
        _, tape = reference.critic_forward(critic, x)
        dx, grads = reference.critic_backward(critic, tape, dq[i])
        expected += dx[:, OBS:]
        kernel = of_params["params"]["critics"]["hidden_1"]["kernel"][i]
        np.testing.assert_allclose(kernel, grads["hidden_1"]["kernel"], atol=5e-5)
    np.testing.assert_allclose(of_action, expected, atol=5e-6)


def test_target_by_hand():
    reward = jnp.array([-4.0, -4.0, 0.0, -300.0])
    goes_on = jnp.array([1.0, 0.0, 1.0, 1.0])
    next_q = jnp.array([[-10.0, -10.0, 3.0, -200.0], [-20.0, -20.0, 5.0, -100.0]])
    y = td_target(next_q, reward, 0.5 * goes_on, MeanTarget())
    # -4 + 0.5 * -20; end: -4; 0 + 0.5 * 3; -300 - 100 = -400, the clip's edge.
    np.testing.assert_allclose(y, [-14.0, -4.0, 1.5, -400.0])
    y = td_target(next_q, reward, goes_on, MeanTarget())
    np.testing.assert_allclose(y[3], -400.0)
    y = td_target(next_q, reward, goes_on, MeanTarget(clip=0.0))
    np.testing.assert_allclose(y[3], -500.0)
    y = td_target(next_q, reward, 0.5 * goes_on, MeanTarget(reduce="mean"))
    np.testing.assert_allclose(y[0], -4 + 0.5 * -15)


def test_loss_by_hand():
    q = jnp.array([[1.0, 3.0], [0.0, 0.0]])
    y = jnp.array([0.0, 1.0])
    # Critic 0: (1 + 4) / 2; critic 1: (0 + 1) / 2; half of their sum 3.
    np.testing.assert_allclose(critic_loss(q, y), 1.5)


def test_the_seam_is_these_functions(critics):
    ensemble, params = critics
    critic = mean_critic(ensemble, OBS, ACT, MeanTarget("mean", 7.0))
    obs, act = (jnp.float32(x) for x in inputs())
    jax.tree.map(np.testing.assert_array_equal, critic.init(jax.random.key(0)), params)
    q = apply(ensemble, params, obs, act)
    np.testing.assert_array_equal(jax.jit(critic.predict)(params, obs, act), q)
    np.testing.assert_array_equal(jax.jit(critic.q)(params, obs, act), q)
    reward, discount = jnp.full(BATCH, 8.0), jnp.full(BATCH, 0.5)
    y = critic.target(q, reward, discount)
    np.testing.assert_array_equal(
        y, td_target(q, reward, discount, MeanTarget("mean", 7.0))
    )
    np.testing.assert_array_equal(y, 7.0)
    np.testing.assert_array_equal(critic.loss(q, y), critic_loss(q, y))
    # two proposals for one state
    np.testing.assert_array_equal(critic.mix(jnp.array([[-3.0, 5.0]])), [1.0])


def test_sizes_and_target_come_from_their_fields():
    config = base.get_config()
    config.critic.num, config.critic.width, config.critic.depth = 3, 8, 2
    config.critic.initial_value = -50.0
    config.target_reduce, config.target_clip = "mean", 9.0
    for critic in (
        make_mean_critic(config, OBS, ACT),
        kinds.make_critic(config, OBS, ACT),
    ):
        params = critic.init(jax.random.key(0))
        expected = init_ensemble(
            CriticEnsemble(3, 8, 2), jax.random.key(0), OBS, ACT, -50.0
        )
        jax.tree.map(np.testing.assert_array_equal, params, expected)
        y = critic.target(jnp.float32([[2.0], [4.0]]), jnp.ones(1), jnp.ones(1))
        np.testing.assert_allclose(y, 1 + 3.0)
        y = critic.target(jnp.float32([[20.0], [20.0]]), jnp.ones(1), jnp.ones(1))
        np.testing.assert_allclose(y, 9.0)
