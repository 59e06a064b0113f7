"""Critics of quantiles: target and loss by hand, by PyTorch, and what they learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from configs import base
from dynvgd_jax.steering.critics import kinds, quantile
from dynvgd_jax.steering.critics.mlp import CriticEnsemble, MeanTarget, init_ensemble
from dynvgd_jax.steering.critics.quantile import quantile_critic
from tests.steering.torch_critics import (
    ACT,
    BATCH,
    OBS,
    Kind,
    check_three_steps,
    fresh,
    learn,
    rows,
)

# Each compiled as one program.
quantile_loss = jax.jit(quantile.quantile_loss, static_argnums=2)
quantile_target = jax.jit(quantile.quantile_target, static_argnums=3)

# An exponential distribution below 0, 10,000 equally likely draws: the quantile at tau
# is 20 log(tau), the mean -20.
RETURNS = 20 * np.log((np.arange(10_000) + 0.5) / 10_000)


def make(num=3, outputs=4, reduce="min", kappa=1.0, initial_value=0.0, clip=400.0):
    ensemble = CriticEnsemble(num, 16, 2, outputs)
    options = MeanTarget(reduce, clip)
    return quantile_critic(ensemble, OBS, ACT, options, kappa, initial_value)


def torch_loss(quantiles, y, kappa):
    """Written as three loops; torch's own Huber loss is kappa's, undivided."""
    total = 0.0
    num_quantiles = quantiles.shape[-1]
    for of_critic in quantiles:
        for m in range(num_quantiles):
            fraction = (2 * m + 1) / (2 * num_quantiles)
            for row, samples in zip(of_critic, y, strict=True):
                theta = row[m].expand_as(samples)
                huber = torch.nn.functional.huber_loss(
                    theta, samples, reduction="none", delta=kappa
                )
                weight = torch.where(samples < theta, 1 - fraction, fraction)
                total = total + (weight * huber).mean() / kappa / len(y)
    return total


def torch_target(reduce, next_quantiles, reward, discount, clip=400.0):
    rows = []
    for b in range(len(reward)):
        members = [critic[b] for critic in next_quantiles]
        lowest = min(members, key=lambda q: q.mean().item())
        samples = lowest if reduce == "min" else torch.cat(members)
        rows.append((reward[b] + discount[b] * samples).clamp(-clip, clip))
    return torch.stack(rows)


def test_loss_by_hand():
    quantiles, y = jnp.array([[[0.0, 2.0]]]), jnp.array([[1.0, 3.0]])
    # Quantile 0, fraction 1/4: u = 1 and 3, H = 0.5 and 2.5, shares 1/4: mean 0.375.
    # Quantile 1, fraction 3/4: u = -1 and 1, H = 0.5, shares 1/4 and 3/4: mean 0.25.
    np.testing.assert_allclose(quantile_loss(quantiles, y, 1.0), 0.625)
    # kappa 2: H = 0.5 and 4, 0.5 and 0.5, halved: 0.28125 + 0.125.
    np.testing.assert_allclose(quantile_loss(quantiles, y, 2.0), 0.40625)
    # A second critic alike doubles it; a second row without error halves it.
    twice = jnp.concatenate([quantiles, quantiles])
    np.testing.assert_allclose(quantile_loss(twice, y, 1.0), 1.25)
    rows = jnp.array([[[0.0, 2.0], [5.0, 5.0]]])
    y = jnp.array([[1.0, 3.0], [5.0, 5.0]])
    np.testing.assert_allclose(quantile_loss(rows, y, 1.0), 0.3125)


def test_one_quantile_is_the_mean_kinds_loss_over_2_kappa():
    q, y = jnp.array([[1.0, 3.0], [0.0, 0.0]]), jnp.array([0.0, 1.0])
    # test_mlp.py's numbers: 1.5
    loss = quantile_loss(q[..., None], y[:, None], 50.0)
    np.testing.assert_allclose(loss, 1.5 / 100, rtol=1e-6)


def test_target_by_hand():
    next_quantiles = jnp.array(
        [[[-30.0, -10.0], [0.0, 8.0]], [[-20.0, -18.0], [2.0, 4.0]]]
    )
    reward, discount = jnp.array([-4.0, -400.0]), jnp.array([0.5, 1.0])
    # Means -20 and -19: critic 0's. 4 and 3: critic 1's; -400 + 2 and + 4.
    y = quantile_target(next_quantiles, reward, discount, MeanTarget("min"))
    np.testing.assert_allclose(y, [[-19.0, -9.0], [-398.0, -396.0]])
    y = quantile_target(next_quantiles, reward, discount, MeanTarget("mean", 399.0))
    mixed = [[-19.0, -9.0, -14.0, -13.0], [-399.0, -392.0, -398.0, -396.0]]
    np.testing.assert_allclose(y, mixed)
    y = quantile_target(next_quantiles, reward - 99, 0 * discount, MeanTarget(clip=0.0))
    np.testing.assert_allclose(y, [[-103.0, -103.0], [-499.0, -499.0]])


def test_mean_and_mixture_by_hand():
    critic = make()
    np.testing.assert_allclose(critic.mean(jnp.array([[[1.0, 3.0, 8.0]]])), [[4.0]])
    np.testing.assert_allclose(critic.mean(jnp.array([[1.0, 3.0]])), [2.0])
    y = jnp.array([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])  # three proposals
    np.testing.assert_array_equal(critic.mix(y), [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    # The loss sees equally likely samples: proposals that agree change nothing.
    rng = np.random.default_rng(0)
    quantiles, y = rng.normal(size=(3, BATCH, 4)), rng.normal(size=(BATCH, 3))
    quantiles, y = jnp.float32(quantiles), jnp.float32(y)
    mixed = critic.mix(jnp.stack([y, y], axis=1))
    loss = jax.jit(critic.loss)
    np.testing.assert_allclose(loss(quantiles, mixed), loss(quantiles, y), rtol=1e-6)


@pytest.mark.parametrize("kappa", [0.3, 1.0, 20.0])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 3), (3, 7, 5)])
def test_loss_and_gradient_agree_with_torch(kappa, shape):
    num, quantiles, samples = shape
    rng = np.random.default_rng(0)
    theta = rng.normal(scale=2.0, size=(num, 4, quantiles))
    y = rng.normal(scale=2.0, size=(4, samples))
    leaf = torch.tensor(theta, requires_grad=True)
    expected = torch_loss(leaf, torch.tensor(y), kappa)
    expected.backward()
    gradient = jax.jit(jax.value_and_grad(quantile.quantile_loss), static_argnums=2)
    loss, grad = gradient(jnp.float32(theta), jnp.float32(y), kappa)
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-5)
    np.testing.assert_allclose(grad, leaf.grad, atol=1e-6)


@pytest.mark.parametrize(
    ("num", "reduce", "kappa"), [(3, "min", 1.0), (2, "mean", 0.5)]
)
def test_three_steps_agree_with_torch(num, reduce, kappa):
    def mean(x):
        return x.mean(-1)

    kind = Kind(
        lambda *inputs: torch_target(reduce, *inputs),
        lambda quantiles, y: torch_loss(quantiles, y, kappa),
        mean,
        mean,
    )
    check_three_steps(make(num, 4, reduce, kappa), kind)


def test_fresh_critics_start_from_a_value():
    """It is added to every quantile and changes no draw."""
    zero, moved = make(), make(initial_value=-100.0)
    q, moved_q = (jax.jit(c.q)(fresh(c), *rows()) for c in (zero, moved))
    np.testing.assert_allclose(moved_q, q - 100.0, rtol=1e-6)
    assert q.shape == (3, BATCH) and float(jnp.abs(q).max()) < 2


def test_one_critic_is_its_own_mixture_and_least():
    quantiles = jnp.float32(np.random.default_rng(0).normal(size=(1, 4, 3)))
    reward, discount = jnp.zeros(4), jnp.ones(4)
    for reduce in ("min", "mean"):
        y = quantile_target(quantiles, reward, discount, MeanTarget(reduce))
        np.testing.assert_array_equal(y, quantiles[0])


def test_the_quantiles_of_a_known_distribution_are_learned():
    """Each by its own number, in ascending order."""
    quantiles = learn(make(2, 8, kappa=0.1), RETURNS, steps=1500)
    wanted = np.stack([20 * np.log((np.arange(8) + 0.5) / 8)] * 2)
    np.testing.assert_allclose(quantiles, wanted, atol=2.5)
    np.testing.assert_allclose(quantiles.mean(-1), wanted.mean(-1), atol=1)


def test_a_wide_kappa_learns_means():
    """Of a square loss the least is at expectiles; one quantile's is the mean."""
    learned = learn(make(2, 1, kappa=1e3), RETURNS, steps=1500)
    np.testing.assert_allclose(learned, RETURNS.mean(), atol=1)


def test_sizes_and_options_come_from_their_fields():
    config = base.get_config()
    config.critic.kind = "quantile"
    config.critic.quantiles, config.critic.kappa = 6, 2.0
    config.critic.num, config.critic.width, config.critic.depth = 3, 8, 2
    config.critic.initial_value = -50.0
    config.target_reduce, config.target_clip = "mean", 9.0
    critic = kinds.make_critic(config, OBS, ACT)
    params = fresh(critic)
    module = CriticEnsemble(3, 8, 2, 6)
    expected = init_ensemble(module, jax.random.key(0), OBS, ACT, -50.0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-6), params, expected)
    quantiles = jax.jit(critic.predict)(params, *rows())
    assert quantiles.shape == (3, BATCH, 6)
    y = jax.jit(critic.target)(quantiles, jnp.zeros(BATCH), jnp.ones(BATCH))
    np.testing.assert_array_equal(y, np.full((BATCH, 18), -9.0))
    np.testing.assert_array_equal(
        jax.jit(critic.loss)(quantiles, y), quantile_loss(quantiles, y, 2.0)
    )
