"""Pre-training: chunk indexing, learning rate, mean, and the step loop."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynvgd_jax.diffusion import cloning
from dynvgd_jax.diffusion.base import Spec
from dynvgd_jax.diffusion.kinds import KINDS
from dynvgd_jax.diffusion.network import DiffusionMLP
from tests.diffusion.helpers import random_params

NET = DiffusionMLP(3, 2, 4, hidden_dims=(16, 16, 16))
MODEL = KINDS["diffusion_mlp"], Spec(NET, 20)
RECIPE = cloning.Recipe(num_steps=400, batch_size=8, warmup_steps=4, learning_rate=1e-2)


def data(steps=20):
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (steps, 3)), rng.uniform(-1, 1, (steps, 2))


def test_chunk_starts_by_hand():
    # Episodes of 5, 3, 4 and 8 steps begin at 0, 5, 8, 12. Chunks of 4 start at
    # 0 .. 1 of the first, nowhere in the second, at 0 of the third, 0 .. 4 of the last.
    chunks = cloning.make_chunks(*data(), np.array([5, 3, 4, 8]), 4)
    assert chunks.starts.tolist() == [0, 1, 8, 12, 13, 14, 15, 16]
    obs, actions = cloning.take(chunks, jnp.array([1, 7]), 4)
    np.testing.assert_array_equal(obs, chunks.obs[[1, 16]])
    np.testing.assert_array_equal(actions[0], chunks.actions[1:5])
    np.testing.assert_array_equal(actions[1], chunks.actions[16:20])


def test_learning_rate_by_hand():
    # From 1e-5 to 1e-4 over 100 steps; the cosine's middle lies at 100 + 900 / 2.
    recipe = cloning.Recipe(num_steps=1000, warmup_steps=100)
    rate = cloning.learning_rate(recipe)
    steps = [0, 50, 100, 550, 1000, 2000]
    expected = [1e-5, 5.5e-5, 1e-4, 5.5e-5, 1e-5, 1e-5]
    np.testing.assert_allclose([rate(s) for s in steps], expected, rtol=1e-4)


@pytest.fixture(scope="module")
def update():
    return jax.jit(cloning.make_update(*MODEL, RECIPE))


def start():
    params = random_params(NET)
    optimizer = cloning._optimizer(RECIPE)
    zero = jnp.zeros((), jnp.int32)
    return cloning.CloningState(params, params, optimizer.init(params), zero)


def test_cutting_the_loop_changes_nothing(update):
    chunks = cloning.make_chunks(*data(), np.array([12, 8]), 4)
    key = jax.random.key(1)
    whole, loss = update(start(), key, chunks, 30)
    state, losses = start(), []
    for steps in (7, 1, 22):
        state, part = update(state, key, chunks, steps)
        losses.append(float(part) * steps)
    jax.tree.map(np.testing.assert_array_equal, state, whole)
    np.testing.assert_allclose(sum(losses) / 30, loss, rtol=1e-5)
    assert int(whole.step) == 30


def test_mean_of_the_weights_by_hand():
    # Every 2 steps, a copy before step 4, then 0.9 old + 0.1 new.
    recipe = dataclasses.replace(
        RECIPE, ema_decay=0.9, ema_every_steps=2, ema_start_step=4
    )
    update = jax.jit(cloning.make_update(*MODEL, recipe))
    chunks = cloning.make_chunks(*data(), np.array([20]), 4)
    state, weights, means = start(), [], []
    for _ in range(6):
        state, _ = update(state, jax.random.key(1), chunks, 1)
        weights.append(np.asarray(state.params["out"]["kernel"]))
        means.append(np.asarray(state.ema_params["out"]["kernel"]))
    np.testing.assert_array_equal(means[0], start().params["out"]["kernel"])
    np.testing.assert_array_equal(means[1], weights[1])  # step 2
    np.testing.assert_array_equal(means[2], means[1])
    fourth = 0.9 * means[1] + 0.1 * weights[3]
    np.testing.assert_allclose(means[3], fourth, atol=1e-7)
    np.testing.assert_allclose(means[5], 0.9 * fourth + 0.1 * weights[5], atol=1e-7)


def test_loss_falls_and_batches_differ(update):
    chunks = cloning.make_chunks(*data(), np.array([20]), 4)
    state, losses = start(), []
    for _ in range(8):
        state, loss = update(state, jax.random.key(1), chunks, 40)
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0] < 1.2
    other = update(start(), jax.random.key(2), chunks, 40)[1]
    assert float(other) != losses[0]


def test_validation_is_a_fixed_draw():
    chunks = cloning.make_chunks(*data(), np.array([20]), 4)
    key = jax.random.key(3)
    first = cloning.make_validation(*MODEL, chunks, key)
    again = cloning.make_validation(*MODEL, chunks, key)
    params = random_params(NET)
    assert float(first(params)) == float(first(params)) == float(again(params))
    assert float(first(random_params(NET, seed=1))) != float(first(params))
