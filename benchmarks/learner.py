"""Speed and memory of the learner: the training call, and acting.

    python -m benchmarks.learner [--tasks=can,square] [--ddim=4,8]
        [--sizes=published,small] [--rounds=5] [--utd=0] [--precision] [--clock=wall]
        [--json]

Needs neither simulator nor PyTorch. In every round the training call is timed between
two timings of plain matrix products, `x @ w`, of the same shapes; "share of plain
products" is the median over rounds of (time that the call's products take by
themselves) / (time of the call). The products are counted by the formula in
learner_flops.py. `--utd` shortens the call where the published 20 gradient steps take
too long; 0 keeps the configuration's number.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence

from benchmarks.learner_setup import (
    CLOCKS,
    Case,
    Learner,
    Row,
    act_inputs,
    case_flags,
    cases,
    print_row,
)

# isort: split
import sys

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks.learner_flops import Products, call_products, flops
from dynvgd_jax.core.jax_start import run_on_devices
from dynvgd_jax.core.precision import PRECISIONS
from dynvgd_jax.steering.methods import build_method

ACT_ENVS = (1, 8, 25)
COMPARED_ACTIONS = 512  # random observations and noises
# Products of one shape are repeated until they make this many operations.
MIN_TIMED_FLOP = 2e9
MAX_REPEATS = 200


class PlainProducts:
    """Times the distinct products of a call, one after the other, by themselves."""

    def __init__(self, products: Products, clock: Callable):
        self.products, self.clock = products, clock
        # The output is donated: a fresh one costs page faults that a call avoids.
        self.program = jax.jit(
            lambda x, w, out: x @ w, donate_argnums=2, keep_unused=True
        )
        self.inputs = {
            (m, k, n): [jnp.ones((m, k)), jnp.ones((k, n)), jnp.zeros((m, n))]
            for m, k, n in products
        }
        self.seconds()  # compiles

    def seconds(self) -> float:
        """Returns the seconds that all products of the call take."""
        total, clock = 0.0, self.clock
        for shape, times in self.products.items():
            x, w, out = self.inputs[shape]
            repeats = int(MIN_TIMED_FLOP / (2 * np.prod(shape, dtype=float)))
            repeats = min(max(repeats, 1), MAX_REPEATS)
            begin = clock()
            for _ in range(repeats):
                out = self.program(x, w, out)
            out.block_until_ready()
            total += times * (clock() - begin) / repeats
            self.inputs[shape][2] = out
        return total


def update_rows(case: Case, rounds: int, clock: Callable) -> Iterator[Row]:
    """Times the training call in turns with its plain products."""
    begin = clock()
    learner = Learner(case)
    yield "training call: trace and compile", clock() - begin, "s"
    products = call_products(case.config, case.policy)
    plain, count = PlainProducts(products, clock), flops(products)
    learner.call()
    calls, shares = [], []
    before = plain.seconds()
    for _ in range(rounds):
        begin = clock()
        learner.call()
        calls.append(clock() - begin)
        after = plain.seconds()
        shares.append((before + after) / 2 / calls[-1])
        before = after
    call, utd = float(np.median(calls)), case.config.utd
    yield "training call", call, "s"
    yield "gradient step", call / utd, "s"
    yield "gradient step: products by formula", count / utd / 1e9, "GFLOP"
    yield "training call: speed", count / call / 1e9, "GFLOP/s"
    yield "training call: share of plain products", float(np.median(shares)), "1"
    memory = learner.compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes
    held += memory.temp_size_in_bytes - memory.alias_size_in_bytes
    yield "training call: device memory", held / 1e6, "MB"


def act_rows(
    case: Case, calls: int, clock: Callable, sizes: Sequence[int] = ACT_ENVS
) -> Iterator[Row]:
    """Times acting from host observations to host actions, of so many environments."""
    state = jax.jit(case.method.init)(jax.random.key(0))
    params = jax.device_put(case.policy.params)
    for num_envs in sizes:
        inputs = act_inputs(case.policy, num_envs)
        begin = clock()
        act = jax.jit(case.method.act).lower(state, params, inputs).compile()
        seconds = clock() - begin
        if num_envs == 8:
            yield "acting, 8 environments: trace and compile", seconds, "s"
        latencies = []
        for _ in range(calls + 1):
            begin = clock()
            np.asarray(act(state, params, inputs).chunk)
            latencies.append(1e3 * (clock() - begin))
        for share in (50, 99):
            value = float(np.percentile(latencies[1:], share))
            yield f"acting, {num_envs} environments: p{share}", value, "ms"


def precision_rows(case: Case) -> Iterator[Row]:
    """Compares the actions of the other precisions with float32's, fresh critics."""
    state = jax.jit(case.method.init)(jax.random.key(0))
    inputs = act_inputs(case.policy, COMPARED_ACTIONS)
    chunks = {}
    for name in PRECISIONS:
        config = ConfigDict(case.config)
        config.precision = name
        act = jax.jit(build_method(config, case.policy).act)
        chunks[name] = np.asarray(act(state, case.policy.params, inputs).chunk)
    for name in PRECISIONS:
        if name != "float32":
            error = np.abs(chunks[name] - chunks["float32"])
            for what, value in (
                ("mean", error.mean()),
                ("p99", np.percentile(error, 99)),
                ("largest", error.max()),
            ):
                text = f"actions in {name}: {what} difference to float32"
                yield text, float(value), "of [-1, 1]"


def case_rows(case: Case, options: argparse.Namespace) -> Iterator[Row]:
    """Returns what the command line asks for."""
    if options.precision:
        yield from precision_rows(case)
    else:
        clock = CLOCKS[options.clock]
        yield from update_rows(case, options.rounds, clock)
        yield from act_rows(case, options.act_calls, clock)


def main():
    parser = case_flags(__doc__, tasks="can,square", ddim="4,8", utd=0)
    parser.add_argument("--act_calls", type=int, default=100)
    parser.add_argument(
        "--precision", action="store_true", help="only what precision does to actions"
    )
    options = parser.parse_args()
    for case in cases(options):
        for row in case_rows(case, options):
            print_row(case.name, row, options.json)


if __name__ == "__main__":
    sys.exit(run_on_devices("learner.py", main))
