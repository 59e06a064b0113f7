"""Matrix products in the configured precision; parameters and sums stay float32."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from dynvgd_jax.core.fields import one_of

# Config value -> JAX's name. TensorFloat-32 exists on NVIDIA GPUs since Ampere; other
# devices compute it as float32.
PRECISIONS = {
    "float32": "float32",
    "tf32": "tensorfloat32",
    "bfloat16": "bfloat16",
}

FIELDS = {"precision": one_of(PRECISIONS)}


def with_precision(fn: Callable, precision: str) -> Callable:
    """Returns `fn`, its products traced in `precision`, a key of PRECISIONS."""

    @functools.wraps(fn)
    def wrapped(*args, **kwargs):
        with jax.default_matmul_precision(PRECISIONS[precision]):
            return fn(*args, **kwargs)

    return wrapped


def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns `x @ kernel` in the precision that `with_precision` chose.

    bfloat16 is written out as casts, forward and backward: JAX's option of that name
    is a permission that CPUs ignore and NVIDIA GPUs answer with TensorFloat-32.
    """
    if jax.config.jax_default_matmul_precision == PRECISIONS["bfloat16"]:
        return _bfloat16_product(x, kernel)
    return x @ kernel


@jax.custom_vjp
def _bfloat16_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _rounded(x, kernel)


def _rounded(a, b):
    """`a @ b` of operands rounded to bfloat16, accumulated in float32.

    CPUs multiply the rounded values in float32, the same numbers: XLA 0.9.2 aborts the
    process where a product of bfloat16 becomes part of a fused loop there.
    """
    return jax.lax.platform_dependent(a, b, cpu=_cpu_rounded, default=_bfloat16_matmul)


def _cpu_rounded(a, b):
    to_bfloat16 = functools.partial(
        jax.lax.reduce_precision, exponent_bits=8, mantissa_bits=7
    )
    return to_bfloat16(a) @ to_bfloat16(b)


def _bfloat16_matmul(a, b):
    a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _bfloat16_forward(x, kernel):
    return _rounded(x, kernel), (x, kernel)


def _bfloat16_backward(inputs, dy):
    x, kernel = inputs
    return _rounded(dy, kernel.T), _rounded(x.T, dy)


_bfloat16_product.defvjp(_bfloat16_forward, _bfloat16_backward)
