"""TD update: target and loss by hand, Adam and Polyak against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from dynvgd_jax.core.types import Transition
from dynvgd_jax.steering.critics import td
from dynvgd_jax.steering.critics.mlp import CriticEnsemble, init_ensemble
from tests.steering import reference

OBS, ACT, BATCH = 5, 6, 8


def batch_of(seed):
    rng = np.random.default_rng(seed)
    return Transition(
        obs=rng.normal(size=(BATCH, OBS)),
        action=rng.normal(size=(BATCH, ACT)),
        reward=rng.normal(size=BATCH) - 4,
        next_obs=rng.normal(size=(BATCH, OBS)),
        done=(rng.random(BATCH) < 0.3).astype(np.float64),
    )


def test_target_by_hand():
    batch = Transition(
        obs=None,
        action=None,
        reward=jnp.array([-4.0, -4.0, 0.0, -300.0]),
        next_obs=None,
        done=jnp.array([0.0, 1.0, 0.0, 0.0]),
    )
    next_q = jnp.array([[-10.0, -10.0, 3.0, -200.0], [-20.0, -20.0, 5.0, -100.0]])
    y = td.td_target(batch, next_q, td.TdConfig(gamma=0.5))
    # -4 + 0.5 * -20; done: -4; 0 + 0.5 * 3; -300 - 100 = -400, the clip's edge.
    np.testing.assert_allclose(y, [-14.0, -4.0, 1.5, -400.0])
    y = td.td_target(batch, next_q, td.TdConfig(gamma=1.0))
    np.testing.assert_allclose(y[3], -400.0)
    y = td.td_target(batch, next_q, td.TdConfig(gamma=1.0, target_clip=0.0))
    np.testing.assert_allclose(y[3], -500.0)
    y = td.td_target(batch, next_q, td.TdConfig(gamma=0.5, reduce="mean"))
    np.testing.assert_allclose(y[0], -4 + 0.5 * -15)


def test_loss_and_metrics_by_hand():
    q = jnp.array([[1.0, 3.0], [0.0, 0.0]])
    y = jnp.array([0.0, 1.0])
    # Critic 0: (1 + 4) / 2; critic 1: (0 + 1) / 2; half of their sum 3.
    loss = td.critic_loss(q, y)
    np.testing.assert_allclose(loss, 1.5)
    metrics = td.td_metrics(q, y, loss)
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
    config = td.TdConfig(gamma=0.99, tau=0.1)
    state = td.CriticState(params, params, optimizer.init(params))
    critics, targets = reference.unstack(params), reference.unstack(params)
    moments = list(
        zip(reference.zeros_like(critics), reference.zeros_like(critics), strict=True)
    )
    for step in range(1, 4):
        batch = batch_of(step)
        next_action = np.random.default_rng(50 + step).normal(size=(BATCH, ACT))
        state, metrics = td.gradient_step(
            ensemble,
            optimizer,
            state,
            Transition(*(jnp.float32(v) for v in batch)),
            jnp.float32(next_action),
            config,
        )
        loss, errors = reference.td_step(
            critics, targets, moments, step, batch, next_action, config, lr=1e-3
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
    batch = Transition(*(jnp.float32(v) for v in batch_of(0)))
    new, _ = td.gradient_step(
        ensemble, optimizer, state, batch, batch.action, td.TdConfig(gamma=0.9)
    )
    jax.tree.map(np.testing.assert_array_equal, new.params, params)
