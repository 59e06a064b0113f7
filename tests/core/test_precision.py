"""Products in lower precision: rounding by hand, both directions, float32 untouched."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynvgd_jax.core.precision import PRECISIONS, matmul, with_precision
from dynvgd_jax.steering.critics.mlp import CriticEnsemble, init_ensemble


def rounded(a):
    """float32 -> bfloat16, to nearest even, by the bits."""
    bits = np.asarray(a, np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


def operands():
    rng = np.random.default_rng(0)
    return np.float32(rng.normal(size=(5, 7))), np.float32(rng.normal(size=(7, 3)))


def test_bfloat16_rounds_operands_and_adds_in_float32():
    x, kernel = operands()
    dy = np.float32(np.random.default_rng(1).normal(size=(5, 3)))

    def product_and_gradients(x, kernel):
        y, pull_back = jax.vjp(matmul, x, kernel)
        return y, *pull_back(dy)

    y, dx, dk = jax.jit(with_precision(product_and_gradients, "bfloat16"))(x, kernel)
    assert y.dtype == dx.dtype == dk.dtype == jnp.float32
    np.testing.assert_allclose(y, rounded(x) @ rounded(kernel), atol=1e-5)
    np.testing.assert_allclose(dx, rounded(dy) @ rounded(kernel).T, atol=1e-5)
    np.testing.assert_allclose(dk, rounded(x).T @ rounded(dy), atol=1e-5)
    assert np.abs(y - x @ kernel).max() > 1e-3


@pytest.mark.parametrize("name", ["float32", "tf32"])
def test_others_ask_xla_and_change_no_bit_on_a_cpu(name):
    x, kernel = operands()
    lowered = jax.jit(with_precision(matmul, name)).lower(x, kernel)
    wanted = {"float32": "[HIGHEST, HIGHEST]", "tf32": "[HIGH, HIGH]"}[name]
    assert f"precision = {wanted}" in lowered.as_text()
    np.testing.assert_array_equal(lowered.compile()(x, kernel), jnp.matmul(x, kernel))


@pytest.mark.parametrize("rows", [4, 100])
def test_critics_round_everywhere_or_nowhere(rows):
    """Few rows take another product, which must follow the precision too."""
    ensemble = CriticEnsemble(num=2, width=32, depth=2)
    params = init_ensemble(ensemble, jax.random.key(0), 3, 4)
    rng = np.random.default_rng(2)
    obs, act = (np.float32(rng.normal(size=(rows, n))) for n in (3, 4))

    def products(name):
        fn = with_precision(
            jax.value_and_grad(lambda a: ensemble.apply(params, obs, a).sum()), name
        )
        traced = jax.jit(fn).trace(act)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
        dots = [line for line in text.splitlines() if "dot_general" in line]
        jax.block_until_ready(jax.jit(fn)(act))  # and it runs on a CPU
        return len(dots), sum("bf16" in line for line in dots)

    # Three layers forward and their backward to the input.
    assert products("bfloat16") == (6, 6)
    assert products("float32") == (6, 0)


def test_every_name_is_known_to_jax():
    for name in PRECISIONS:
        with_precision(lambda: None, name)()
