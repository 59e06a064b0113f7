"""TD update: metrics and Polyak by hand, Adam and Polyak against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from dynvgd_jax.core.types import Transition
from dynvgd_jax.steering.critics import td
from dynvgd_jax.steering.critics.mlp import (
    CriticEnsemble,
    critic_loss,
    init_ensemble,
    mean_critic,
)
from tests.steering import reference

OBS, ACT, BATCH = 5, 6, 8


def batch_of(seed, gamma):
    """As drawn from the replay buffer: gamma is in the discount."""
    rng = np.random.default_rng(seed)
    batch = Transition(
        obs=rng.normal(size=(BATCH, OBS)),
        action=rng.normal(size=(BATCH, ACT)),
        reward=rng.normal(size=BATCH) - 4,
        next_obs=rng.normal(size=(BATCH, OBS)),
        discount=gamma * (rng.random(BATCH) >= 0.3),
        ended=np.zeros(BATCH, bool),
    )
    assert 0 < np.count_nonzero(batch.discount) < BATCH
    return batch


def float32(batch):
    return jax.tree.map(jnp.float32, batch)


def test_metrics_by_hand():
    q = jnp.array([[1.0, 3.0], [0.0, 0.0]])
    y = jnp.array([0.0, 1.0])
    loss = critic_loss(q, y)
    metrics = td.td_metrics(q, y, loss)
    np.testing.assert_allclose(metrics["train/critic_loss"], loss)
    np.testing.assert_allclose(metrics["train/q0_mean"], 2.0)
    np.testing.assert_allclose(metrics["train/td_error_mean"], (1 + 2 + 0 + 1) / 4)
    np.testing.assert_allclose(metrics["train/td_error_std"], np.sqrt(0.5))
    np.testing.assert_allclose(metrics["train/q_diff_max_min"], 2.0)
    # Sample standard deviations: |1 - 0|/sqrt 2 and |3 - 0|/sqrt 2, mean 2/sqrt 2.
    np.testing.assert_allclose(metrics["train/q_std_inter_critic"], np.sqrt(2))


def test_polyak_by_hand():
    out = td.polyak({"a": jnp.array(1.0)}, {"a": jnp.array(3.0)}, 0.25)
    np.testing.assert_allclose(out["a"], 1.5)


def test_global_norm_agrees_with_float64():
    rng = np.random.default_rng(3)
    tree = {"kernel": rng.normal(size=(4, 70, 90)), "bias": rng.normal(size=(4, 1))}
    expected = np.sqrt(sum(np.sum(leaf**2) for leaf in tree.values()))
    norm = jax.jit(td.global_norm)(jax.tree.map(jnp.float32, tree))
    np.testing.assert_allclose(norm, expected, rtol=1e-6)
    # sqrt(3^2 + 4^2 + 12^2) = 13
    tree = {"a": jnp.array([[3.0], [4.0]]), "b": jnp.array([12.0, 0.0])}
    np.testing.assert_allclose(td.global_norm(tree), 13.0)


def test_three_steps_agree_with_float64():
    ensemble = CriticEnsemble(num=4, width=16, depth=3)
    params = init_ensemble(ensemble, jax.random.key(0), OBS, ACT)
    optimizer = td.make_optimizer(1e-3)
    critic = mean_critic(ensemble, OBS, ACT)
    gradient_step = jax.jit(
        lambda state, batch, next_action: td.gradient_step(
            critic,
            optimizer,
            state,
            batch,
            td.next_target(critic, state.target_params, batch, next_action),
            tau=0.1,
        )
    )
    state = td.CriticState(params, params, optimizer.init(params))
    critics, targets = reference.unstack(params), reference.unstack(params)
    moments = list(
        zip(reference.zeros_like(critics), reference.zeros_like(critics), strict=True)
    )
    for step in range(1, 4):
        batch = batch_of(step, gamma=0.99)
        next_action = np.random.default_rng(50 + step).normal(size=(BATCH, ACT))
        state, metrics = gradient_step(state, float32(batch), jnp.float32(next_action))
        loss, errors = reference.td_step(
            critics, targets, moments, step, batch, next_action, lr=1e-3, tau=0.1
        )
        np.testing.assert_allclose(metrics["train/critic_loss"], loss, rtol=1e-5)
        np.testing.assert_allclose(
            metrics["train/td_error_mean"], errors.mean(), rtol=1e-5
        )
    for ours, theirs in ((state.params, critics), (state.target_params, targets)):
        for got, want in zip(reference.unstack(ours), theirs, strict=True):
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want
            )


def test_targets_receive_no_gradient():
    """The loss at fixed y is what is differentiated, not the target's path."""
    ensemble = CriticEnsemble(num=2, width=8, depth=1)
    params = init_ensemble(ensemble, jax.random.key(0), OBS, ACT)
    optimizer = td.make_optimizer(0.0)
    state = td.CriticState(params, params, optimizer.init(params))
    batch = float32(batch_of(0, gamma=0.9))
    critic = mean_critic(ensemble, OBS, ACT)

    @jax.jit
    def step(state, batch):
        y = td.next_target(critic, state.target_params, batch, batch.action)
        return td.gradient_step(critic, optimizer, state, batch, y, tau=0.005)

    @jax.jit
    def gradient(params):
        next_q = ensemble.apply(state.params, batch.next_obs, batch.action)
        y = critic.target(next_q, batch.reward, batch.discount)
        loss = lambda p: critic_loss(ensemble.apply(p, batch.obs, batch.action), y)  # noqa: E731
        return jax.grad(loss)(params)

    new, metrics = step(state, batch)
    jax.tree.map(np.testing.assert_array_equal, new.params, params)
    # And the gradient is that of the loss at these targets.
    norm = td.global_norm(gradient(params))
    np.testing.assert_allclose(metrics["train/critic_grad_norm"], norm, rtol=1e-5)
