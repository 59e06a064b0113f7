"""How long one decision of a controller takes.

  python -m benchmarks.latency runs/can_ddim8-quick-seed0
  python -m benchmarks.latency runs/square_ddim8-seed0 --batch_size=8 --calls=500

Times, by turns, the controller of a run (raw observation in, raw actions out), the
frozen policy's decode alone (`Policy.sample`), and one square matrix product of as many
floating-point operations as XLA counts in the controller's program. Prints p50 and p99
in milliseconds, and the median share of the product's time in the same turn: the
machine's speed that moment cancels out.
"""

import argparse
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import numpy as np
from rich.table import Table

from dynvgd_jax.agent import load_agent
from dynvgd_jax.core.command_line import expand
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.jax_start import run_on_devices
from dynvgd_jax.core.normalize import unnormalize_obs
from dynvgd_jax.runs.terminal import print_table


def square_product(flops):
    """A function that multiplies two square matrices in about `flops` operations."""
    size = max(round((flops / 2) ** (1 / 3)), 1)
    a = jax.device_put(np.ones((size, size), np.float32))
    product = jax.jit(lambda a, b: a @ b).lower(a, a).compile()
    return lambda index: product(a, a).block_until_ready()


def make_cases(agent, batch_size):
    """Returns name -> function of the chunk's number, and the program's operations."""
    policy, controller = agent.policy, agent.controller(batch_size)
    rng = np.random.default_rng(0)
    scaled = rng.uniform(-1, 1, (batch_size, policy.obs_dim)).astype(np.float32)
    raw = unnormalize_obs(policy.normalization, scaled)
    shape = (batch_size, policy.chunk_len, policy.action_dim)
    noise = rng.standard_normal(shape, np.float32)
    flops = controller.program.cost_analysis()["flops"]
    return {
        "controller": lambda index: controller.chunk(raw, 0, index),
        "frozen policy alone": lambda index: np.asarray(
            policy.sample(scaled, noise, agent.config.ddim_steps)
        ),
        "matrix product": square_product(flops),
    }, flops


def main(arguments=None):
    """Reads the command line, prints the table, returns milliseconds by case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=expand)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--calls", type=int, default=300)
    options = parser.parse_args(arguments)
    for name in ("batch_size", "calls"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name}: found {getattr(options, name)}, expected 1 up")
    cases, flops = make_cases(load_agent(options.run), options.batch_size)
    seconds = {name: [] for name in cases}
    for index in range(-3, options.calls):  # the first turns warm up
        for name, call in cases.items():
            begin = time.perf_counter()
            call(max(index, 0))
            seconds[name].append(time.perf_counter() - begin)
    found = {name: 1e3 * np.array(times[3:]) for name, times in seconds.items()}
    device = jax.devices()[0].device_kind
    table = Table(
        title=f"A decision for {options.batch_size}, {flops / 1e6:,.0f} MFLOP, on "
        f"{device}, {options.calls} calls"
    )
    for heading in ("what", "p50 ms", "p99 ms", "of the product"):
        table.add_column(heading)
    for name, times in found.items():
        p50, p99 = np.percentile(times, (50, 99))
        share = np.median(times / found["matrix product"])
        table.add_row(name, f"{p50:.2f}", f"{p99:.2f}", f"{share:.1f}")
    print_table(table)
    return found


if __name__ == "__main__":
    sys.exit(run_on_devices("latency.py", main))
