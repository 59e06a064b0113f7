"""Time by kernel class, worked by hand, and from a real trace."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.kernel_trace import Kernel, busy_ns, class_of, profile_rows, record


def test_rows_by_hand():
    # two streams: 0-4 and 2-6 overlap, nothing runs from 6 to 9 ms
    kernels = [
        Kernel("sm90_xmma_gemm_f32", 0e6, 4e6),
        Kernel("loop_add_fusion", 2e6, 6e6),
        Kernel("MemcpyD2D", 9e6, 10e6),
    ]
    assert busy_ns(kernels) == 7e6
    rows = {what: value for what, value, _ in profile_rows(kernels, steps=2)}
    assert rows["gradient step: kernels"] == 1.5
    classes = ("products", "elementwise", "copies", "gaps")
    found = [rows[f"gradient step: {name}"] for name in classes]
    assert found == pytest.approx([2.0, 2.0, 0.5, 1.5])
    assert rows["gradient step: sm90_xmma_gemm_f32"] == 2.0
    assert list(profile_rows([], 1)) == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_tst_128x256_64x4", "products"),
        ("cutlass_80_tensorop_s1688gemm_128x128", "products"),
        ("gemm_fusion_dot_general_12", "products"),
        ("loop_multiply_fusion", "elementwise"),
        ("input_reduce_fusion_3", "elementwise"),
        ("MemcpyH2D", "copies"),
    ],
)
def test_classes_of_a_gpus_kernels(name, kind):
    assert class_of(Kernel(name, 0, 1)) == kind


def test_a_trace_of_a_compiled_call():
    call = jax.jit(lambda x: jnp.tanh(x @ x))
    x = jnp.ones((128, 128))
    jax.block_until_ready(call(x))
    kernels = record(lambda: jax.block_until_ready(call(x)), 2)
    assert "products" in {class_of(kernel) for kernel in kernels}
    assert all(kernel.end_ns >= kernel.start_ns for kernel in kernels)
