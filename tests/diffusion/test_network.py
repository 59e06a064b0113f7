"""The network against a float64 reference, in every variant of DPPO's files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynvgd_jax.diffusion.network import (
    DiffusionMLP,
    bind,
    init_params,
    mish,
    param_shapes,
    sinusoidal_embedding,
)
from tests.diffusion.helpers import random_params
from tests.support import reference

VARIANTS = {
    "can": dict(hidden_dims=(64, 64, 64)),
    "square": dict(hidden_dims=(64, 64, 64), time_dim=32, cond_dims=(48, 16)),
    "two_blocks": dict(hidden_dims=(32,) * 5),
    "gym": dict(hidden_dims=(64, 64, 64), activation="relu"),
    "gym_encoder": dict(hidden_dims=(64,) * 3, activation="relu", cond_dims=(48, 16)),
    "norm": dict(hidden_dims=(64, 64, 64), layer_norm=True),
    "plain": dict(hidden_dims=(64, 48), residual=False),
    "plain_norm": dict(hidden_dims=(64, 48), residual=False, layer_norm=True),
}


def build(**fields):
    net = DiffusionMLP(obs_dim=23, action_dim=7, chunk_len=4, **fields)
    params = random_params(net)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(5, 4, 7)).astype(np.float32)
    obs = rng.uniform(-1.5, 1.5, size=(5, 23)).astype(np.float32)
    return net, params, x, obs


def reference_kwargs(fields):
    renamed = {"time_dim": 16, **fields}
    renamed["layer_norm_on"] = renamed.pop("layer_norm", False)
    return renamed


@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)
def test_agrees_with_float64(fields):
    net, params, x, obs = build(**fields)
    t = np.array([0, 3, 19, 50, 99], np.int32)
    eps = jax.jit(bind(net, params))(x, t, obs)
    expected = reference.network(params, x, t, obs, **reference_kwargs(fields))
    np.testing.assert_allclose(eps, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", ["can", "square"])
def test_jit_and_scalar_t_agree(name):
    net, params, x, obs = build(**VARIANTS[name])
    eps_fn = bind(net, params)
    rows = jax.jit(eps_fn)(x, jnp.full((5,), 14, jnp.int32), obs)
    one = eps_fn(x, jnp.asarray(14, jnp.int32), obs)
    compiled = jax.jit(eps_fn)(x, jnp.asarray(14, jnp.int32), obs)
    np.testing.assert_allclose(one, rows, atol=1e-6)
    np.testing.assert_allclose(compiled, one, atol=1e-6)


def test_mish_and_its_slope():
    # mish(1) = tanh(ln(1 + e)) = tanh(1.3132617) = 0.8650984
    assert abs(float(mish(jnp.float32(1.0))) - 0.8650984) < 1e-6
    x = np.linspace(-100, 100, 4001, dtype=np.float32)
    np.testing.assert_allclose(mish(x), reference.mish(np.float64(x)), 2e-6, 1e-30)
    slope = jax.vmap(jax.grad(mish))(jnp.asarray(x))
    step = 1e-6
    plus, minus = (reference.mish(np.float64(x) + s) for s in (step, -step))
    np.testing.assert_allclose(slope, (plus - minus) / (2 * step), atol=1e-5)


def test_time_embedding_by_hand():
    # dim 4: half = 2, frequencies exp(0) = 1 and exp(-ln 10000) = 1e-4; t = 2.
    row = sinusoidal_embedding(jnp.array([2]), 4)[0]
    expected = [np.sin(2.0), 2e-4, np.cos(2.0), 1 - 2e-8]
    np.testing.assert_allclose(row, expected, rtol=1e-6)


def test_published_square_shapes():
    net = DiffusionMLP(23, 7, 4, 32, (1024,) * 3, (512, 64))
    shapes = {name: leaf["kernel"].shape for name, leaf in param_shapes(net).items()}
    assert shapes == {
        "time_0": (32, 64),
        "time_1": (64, 32),
        "cond_0": (23, 512),
        "cond_1": (512, 64),
        "trunk_in": (124, 1024),
        "block_0_l1": (1024, 1024),
        "block_0_l2": (1024, 1024),
        "out": (1024, 28),
    }


def test_initial_values():
    net = DiffusionMLP(23, 7, 4, hidden_dims=(512, 512, 512), layer_norm=True)
    params = init_params(net, jax.random.key(0))
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params)
    assert shapes == jax.tree.map(lambda s: (s.shape, s.dtype), param_shapes(net))
    bound = 1 / np.sqrt(512)
    for name in ("block_0_l1", "block_0_l2"):
        for leaf in params[name].values():
            assert 0.98 * bound < float(jnp.max(jnp.abs(leaf))) <= bound
            # A uniform variable has standard deviation bound / sqrt(3).
            assert abs(float(jnp.std(leaf)) / (bound / np.sqrt(3)) - 1) < 0.05
    kernels = [params[name]["kernel"] for name in ("block_0_l1", "block_0_l2")]
    assert abs(np.corrcoef(*(np.ravel(k) for k in kernels))[0, 1]) < 0.02
    norm = params["block_0_norm1"]
    assert np.all(norm["scale"] == 1) and np.all(norm["bias"] == 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(activation="tanh"), "activation"),
        (dict(hidden_dims=(8, 8)), "odd"),
        (dict(hidden_dims=(8, 9, 8)), "equal widths"),
        (dict(hidden_dims=()), "hidden_dims"),
        (dict(time_dim=5), "time_dim"),
    ],
)
def test_impossible_architectures(fields, message):
    with pytest.raises(ValueError, match=message):
        DiffusionMLP(3, 2, 4, **fields)


def test_wrong_input_shapes():
    net, params, x, obs = build()
    with pytest.raises(ValueError, match="expected"):
        net.apply({"params": params}, x, jnp.zeros(5, jnp.int32), obs[:, :22])
