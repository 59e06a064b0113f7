"""Kernels and bytes of a compiled program's text, counted by hand."""

import pytest

gpu_program = pytest.importorskip("benchmarks.gpu_program")

TEXT = """
%fused_add.1 (p: f32[4,8]) -> f32[4,8] {
  %p = f32[4,8]{1,0} parameter(0)
  ROOT %add.1 = f32[4,8]{1,0} add(%p, %p)
}

%fused_sum (q: f32[4,8]) -> f32[4] {
  %q = f32[4,8]{1,0} parameter(0)
  ROOT %reduce.1 = f32[4]{0} reduce(%q, %c), dimensions={1}, to_apply=%region
}

%body (arg: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %arg = (s32[], f32[4,8]{1,0}) parameter(0)
  %x = f32[4,8]{1,0} get-tuple-element(%arg), index=1
  %loop_add = f32[4,8]{1,0} fusion(%x), kind=kLoop, calls=%fused_add.1, metadata={op_name="jit(call)/add"}
  %sums = f32[4]{0} fusion(%loop_add), kind=kInput, calls=%fused_sum
  %w = bf16[8,8]{1,0} constant({...})
  %product = f32[4,8]{1,0} custom-call(%loop_add, %w), custom_call_target="__cublas$gemm"
  ROOT %tuple = (s32[], f32[4,8]{1,0}) tuple(%i, %product)
}

ENTRY %main (a: f32[4,8]) -> f32[4,8] {
  %a = f32[4,8]{1,0} parameter(0)
  %copy.1 = f32[4,8]{1,0} copy(%a)
  %start = (s32[], f32[4,8]{1,0}) tuple(%zero, %copy.1)
  %while.1 = (s32[], f32[4,8]{1,0}) while(%start), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"20"}}
  ROOT %out = f32[4,8]{1,0} get-tuple-element(%while.1), index=1
}
"""  # noqa: E501


def test_a_loops_kernels_and_bytes_by_hand():
    found, entry = gpu_program.computations(TEXT)
    assert entry == "main" and gpu_program.loop_body(found, 20) == "body"
    outside = gpu_program.kernels(found, entry)
    assert [(k.name, k.kind, k.nbytes) for k in outside] == [("copy.1", "copy", 256)]
    step = gpu_program.kernels(found, "body", inside_loops=True)
    # [4, 8] float32 are 128 bytes, [8, 8] bfloat16 too
    assert [(k.name, k.kind, k.nbytes) for k in step] == [
        ("loop_add", "elementwise", 256),
        ("sums", "sum", 16 + 128),
        ("product", "product", 128 + 128 + 128),
    ]
    assert step[0].source == "jit(call)/add"
