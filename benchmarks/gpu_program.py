"""Kernels and bytes of the training call as XLA compiles it for an H100, without one.

    pip install --no-deps "jax-cuda12-plugin==0.9.2" "jax-cuda12-pjrt==0.9.2" \
        nvidia-cuda-nvcc-cu12
    python -m benchmarks.gpu_program [--task=square] [--size=published]
        [--precisions=float32,tf32,bfloat16] [--top=8] [--text=FILE] [--json]

Needs neither GPU nor driver: JAX's CUDA plugin compiles for a described card. Without a
card products are not tuned, so that which kernels multiply, and what becomes part of
them, may differ there. One gradient step is the body of the training call's loop. A
kernel's bytes are those of its operands and results, each once, of an array that is
updated in place the whole; over the card's
bandwidth they bound its time from below, but for what its cache of 50 MB still holds.
"""

import argparse
import collections
import os
import re
import sys
from typing import NamedTuple

from benchmarks.learner_setup import (
    STORED,
    case_draw,
    make_case,
    print_row,
    stored_example,
)

# isort: split
import jax
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from dynvgd_jax.core.precision import PRECISIONS
from dynvgd_jax.replay import ring
from dynvgd_jax.steering.methods import state_shapes
from dynvgd_jax.training.programs import call_on_ring

BYTES_PER_S = 3.0e12  # of a copy, read and written together, measured on an H100

# What XLA wants to know of a card (NVIDIA's data sheet of the H100 SXM).
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024  threads_per_warp: 32
  shared_memory_per_block: 49152  shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048  core_count: 132  fpus_per_core: 128
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  memory_bandwidth: 3352320000000  l2_cache_size: 52428800
  clock_rate_ghz: 1.98  device_memory_size: 84942979072
  cuda_compute_capability { major: 9 minor: 0 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""

DTYPE_BYTES = {
    **dict.fromkeys(("pred", "s8", "u8"), 1),
    **dict.fromkeys(("bf16", "f16", "s16", "u16"), 2),
    **dict.fromkeys(("f32", "s32", "u32"), 4),
    **dict.fromkeys(("f64", "s64", "u64"), 8),
}
INSTRUCTION = re.compile(
    r"^\s*(?:ROOT )?%(?P<name>[\w.-]+) = (?P<type>.*?) (?P<op>[a-z][\w-]*)\("
    r"(?P<operands>[^)]*)\)(?P<rest>.*)$"
)
COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%(?P<name>[\w.-]+) \(.*\{$")
KERNELS = ("fusion", "custom-call", "copy", "sort", "reduce", "dot", "scatter")
CALLS = ("while", "call", "conditional", "async-start")


class Kernel(NamedTuple):
    """One launch, or one copy."""

    name: str
    kind: str  # "product", "sum", "elementwise" or "copy"
    nbytes: int  # read and written
    source: str  # the operation that it was traced from


class Instruction(NamedTuple):
    """One line of a compiled program."""

    name: str
    op: str
    nbytes: int  # of the result
    operands: list[str]
    rest: str


def type_nbytes(text: str) -> int:
    """Returns the bytes of an HLO type, of a tuple those of its parts."""
    total = 0
    for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", text):
        count = 1
        for size in filter(None, shape.split(",")):
            count *= int(size)
        total += count * DTYPE_BYTES.get(dtype, 0)
    return total


def computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Returns the instructions of a program's computations, and its entry's name."""
    found, entry, current = {}, "", None
    for line in text.splitlines():
        head = COMPUTATION.match(line)
        if head:
            current = found.setdefault(head["name"], [])
            entry = head["name"] if head["entry"] else entry
            continue
        match = INSTRUCTION.match(line)
        if match and current is not None:
            operands = re.findall(r"%([\w.-]+)", match["operands"])
            nbytes = type_nbytes(match["type"])
            fields = (match["name"], match["op"], nbytes, operands, match["rest"])
            current.append(Instruction(*fields))
    return found, entry


def called(instruction: Instruction) -> list[str]:
    """Returns the computations that an instruction runs, of a loop its body."""
    names = r"(?:body|to_apply|calls|true_computation|false_computation)=%([\w.-]+)"
    return re.findall(names, instruction.rest)


def kind_of(instruction: Instruction, parts: list[Instruction]) -> str:
    """Returns the kind of a kernel; `parts` are what it was fused of."""
    ops = {part.op for part in parts}
    if instruction.op == "dot" or "dot" in ops or "gemm" in instruction.rest:
        return "product"
    if "matmul" in instruction.rest:
        return "product"
    if instruction.op == "copy" or ops <= {"parameter", "copy", "bitcast", "tuple"}:
        return "copy"
    return "sum" if ops & {"reduce", "sort"} else "elementwise"


def kernels(
    found: dict[str, list[Instruction]], name: str, inside_loops: bool = False
) -> list[Kernel]:
    """Returns what a computation launches, called computations included.

    Args:
      found: of `computations`.
      name: of the computation.
      inside_loops: whether what a loop launches in one round counts.
    """
    sizes = {i.name: i.nbytes for i in found[name]}
    launched = []
    for instruction in found[name]:
        if instruction.op in CALLS:
            if instruction.op != "while" or inside_loops:
                for inner in called(instruction):
                    launched += kernels(found, inner, inside_loops)
        elif instruction.op in KERNELS:
            parts = [p for inner in called(instruction) for p in found.get(inner, [])]
            nbytes = instruction.nbytes + sum(sizes[o] for o in instruction.operands)
            source = re.search(r'op_name="([^"]*)"', instruction.rest)
            launched.append(
                Kernel(
                    instruction.name,
                    kind_of(instruction, parts),
                    nbytes,
                    source[1] if source else "",
                )
            )
    return launched


def loop_body(found: dict[str, list[Instruction]], rounds: int) -> str:
    """Returns the body of the loop with so many rounds that launches the most."""
    bodies = [
        inner
        for instructions in found.values()
        for i in instructions
        if i.op == "while" and f'"n":"{rounds}"' in i.rest
        for inner in called(i)
    ]
    return max(bodies, key=lambda name: len(kernels(found, name)))


def compiled_text(case) -> str:
    """Returns the training call of one device, as compiled for an H100."""
    sizes = {"target_config": H100, "topology": "1x1x1"}
    card = topologies.get_topology_desc(platform="cuda", topology_name="1x1x1", **sizes)
    place = SingleDeviceSharding(card.devices[0])
    example = stored_example(case)
    inputs = (
        state_shapes(case.method),
        jax.eval_shape(lambda: ring.init_replay(STORED, example)),
        case.policy.params,
        jax.eval_shape(lambda: jax.random.key(0)),
        jax.eval_shape(lambda: jax.numpy.int32(0)),
    )
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), inputs
    )
    call = jax.jit(call_on_ring(case.method, case_draw(case)), donate_argnums=0)
    return call.lower(*shapes).compile().as_text()


def rows(case, text: str, top: int):
    """Yields what one gradient step launches, by kind, and its largest kernels."""
    found, entry = computations(text)
    step = kernels(found, loop_body(found, case.config.utd), inside_loops=True)
    yield "kernels of a call outside its steps", len(kernels(found, entry)), "1"
    yield "kernels of a gradient step", len(step), "1"
    yield "bytes of a gradient step", sum(k.nbytes for k in step) / 1e6, "MB"
    by_kind = collections.defaultdict(list)
    for kernel in step:
        by_kind[kernel.kind].append(kernel)
    for kind, own in sorted(by_kind.items()):
        nbytes = sum(k.nbytes for k in own)
        yield f"{kind}: kernels", len(own), "1"
        yield f"{kind}: bytes", nbytes / 1e6, "MB"
        yield f"{kind}: at least", 1e3 * nbytes / BYTES_PER_S, "ms"
    others = [k for k in step if k.kind != "product"]
    for kernel in sorted(others, key=lambda k: -k.nbytes)[:top]:
        what = f"{kernel.kind} {kernel.name}: {kernel.source[-60:]}"
        yield what, kernel.nbytes / 1e6, "MB"


def main():
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"  # there is no driver to ask
    jax.config.update("jax_platforms", "cuda,cpu")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="square")
    parser.add_argument("--size", default="published")
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    parser.add_argument("--top", type=int, default=8, help="largest kernels to name")
    parser.add_argument("--text", help="write the compiled programs there")
    parser.add_argument("--json", action="store_true", help="one object per line")
    options = parser.parse_args()
    for precision in options.precisions.split(","):
        case = make_case(options.task, 8, options.size, precision=precision)
        text = compiled_text(case)
        if options.text:
            with open(f"{options.text}.{precision}", "w") as file:
                file.write(text)
        for row in rows(case, text, options.top):
            print_row(case.name, row, options.json)


if __name__ == "__main__":
    sys.exit(main())
