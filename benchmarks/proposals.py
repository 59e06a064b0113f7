"""What a gradient step costs by the proposals that its target looks at.

    python -m benchmarks.proposals [--config=configs/square_ddim8.py:quick] [--calls=4]

Times the training call of a configuration with its replay buffer on the device, in
turns: with all stored proposals, with fewer of them (`target_proposals`), with edits of
these beside them (`method=edit`), and with one chunk that every step decodes instead
(`target_backup=guided`). Prints the milliseconds
of wall-clock and of CPU time of one gradient step, the least over the calls, and the
share of the first.
"""

import argparse
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import numpy as np
from rich.table import Table

from dynvgd_jax.core.config_file import load_config
from dynvgd_jax.core.jax_start import run_on_devices
from dynvgd_jax.diffusion.policy_files import load_policy, policy_source
from dynvgd_jax.replay import ring
from dynvgd_jax.runs.terminal import print_table
from dynvgd_jax.steering.methods import build_method
from dynvgd_jax.training.programs import call_on_ring
from dynvgd_jax.training.replay_memory import make_draw

STORED = 2_000  # transitions


def filled(method, policy):
    """A replay buffer of random transitions."""
    flat_dim = policy.chunk_len * policy.action_dim
    extras = (method.extras, method.next_extras)
    example = ring.example_transition(policy.obs_dim, flat_dim, *extras)
    rng = np.random.default_rng(0)

    def fill(leaf):
        shape = (STORED, *leaf.shape)
        if leaf.dtype == bool:
            return rng.random(shape) < 0.01
        return rng.uniform(-1, 1, shape).astype(leaf.dtype)

    state = ring.init_replay(STORED, example)
    return jax.jit(ring.add)(state, jax.tree.map(fill, example))


class Case:
    """One training call, compiled."""

    def __init__(self, config, policy, changes):
        config = config.copy_and_resolve_references().unlock()
        config.update_from_flattened_dict(changes)
        method = build_method(config, policy)
        self.utd, self.params = config.utd, jax.device_put(policy.params)
        self.learner = jax.jit(method.init)(jax.random.key(0))
        self.replay = filled(method, policy)
        draw = make_draw(config, method.follows, method.more_batches)
        self.call = jax.jit(call_on_ring(method, draw), donate_argnums=0)
        self.times = []
        self.run(0)

    def run(self, number):
        """One call; appends its seconds of wall-clock and of CPU time."""
        key = jax.random.key(number)
        begin = time.perf_counter(), time.process_time()
        self.learner, _ = self.call(self.learner, self.replay, self.params, key, 0)
        jax.block_until_ready(self.learner)
        self.times.append(
            (time.perf_counter() - begin[0], time.process_time() - begin[1])
        )

    def least_ms(self):
        """Of a gradient step, without the first call, which compiled."""
        return 1e3 * np.min(self.times[1:], axis=0) / self.utd


def main(arguments=None):
    """Reads the command line, prints the table, returns milliseconds by case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/square_ddim8.py:quick")
    parser.add_argument("--calls", type=int, default=4)
    options = parser.parse_args(arguments)
    config = load_config(options.config)
    policy = load_policy(policy_source(config))
    count = config.guidance.candidates
    cases = {f"all {count}": {"target_proposals": 0}}
    cases |= {f"{n}": {"target_proposals": n} for n in (count // 2, 1) if n}
    edited = {"method": "edit", "target_proposals": count // 2}
    cases[f"{count // 2} and their edits"] = edited
    cases["decoded"] = {"target_backup": "guided"}
    cases = {name: Case(config, policy, what) for name, what in cases.items()}
    for number in range(1, options.calls + 1):
        for case in cases.values():
            case.run(number)
    table = Table(title=f"A gradient step of {options.config}")
    for heading in ("proposals in the target", "ms", "ms of CPU time", "of the first"):
        table.add_column(heading)
    found = {name: case.least_ms() for name, case in cases.items()}
    first = next(iter(found.values()))
    for name, (wall, cpu) in found.items():
        table.add_row(name, f"{wall:.1f}", f"{cpu:.1f}", f"{cpu / first[1]:.2f}")
    print_table(table)
    return found


if __name__ == "__main__":
    sys.exit(run_on_devices("proposals.py", main))
