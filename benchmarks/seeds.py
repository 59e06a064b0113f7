"""What several seeds cost side by side, against one after the other.

    python -m benchmarks.seeds [--tasks=square] [--ddim=8] [--sizes=small] [--seeds=5]
        [--rounds=5] [--utd=0] [--json]

Times the training call of all seeds as one program in turns with the calls of as many
single seeds. Neither simulator nor PyTorch is needed.
"""

import time

from benchmarks.learner_setup import (
    STORED,
    Case,
    case_flags,
    cases,
    print_row,
    random_transitions,
    stored_example,
)

# isort: split
import sys

import jax
import numpy as np

from dynvgd_jax.core.jax_start import run_on_devices
from dynvgd_jax.training.placement import place
from dynvgd_jax.training.programs import compile_programs
from dynvgd_jax.training.replay_memory import DeviceReplay


class Learners:
    """The training call of some seeds with its state, as the training loop holds it."""

    def __init__(self, case: Case, num_seeds: int):
        placement = place(num_seeds)
        self.num_seeds, self.calls = num_seeds, 0
        inputs = (case.config, case.policy, case.method, placement)
        self.programs = compile_programs(*inputs)
        self.replay = DeviceReplay(placement, STORED, stored_example(case))
        stored = [random_transitions(case, STORED, seed) for seed in range(num_seeds)]
        self.replay.store(stored)
        init = jax.jit(case.method.init)
        learners = [init(jax.random.key(seed)) for seed in range(num_seeds)]
        self.learner = self.programs.put(learners)
        self.seconds()  # compiles

    def seconds(self) -> float:
        """Returns the seconds of one training call."""
        self.calls += 1
        keys = [jax.random.key(self.calls) for _ in range(self.num_seeds)]
        begin = time.perf_counter()
        self.learner, _ = self.programs.update(self.learner, self.replay, keys, 0)
        jax.block_until_ready(self.learner)
        return time.perf_counter() - begin


def main():
    parser = case_flags(__doc__, tasks="square", ddim="8", utd=0)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    for case in cases(options):
        one, several = Learners(case, 1), Learners(case, options.seeds)
        turns = [(one.seconds(), several.seconds()) for _ in range(options.rounds)]
        alone, together = np.median(turns, axis=0)
        ratio = float(np.median([s / (options.seeds * o) for o, s in turns]))
        for what, value, unit in (
            ("training call, one seed", alone, "s"),
            (f"training call, {options.seeds} seeds side by side", together, "s"),
            ("side by side / one after the other", ratio, "1"),
        ):
            print_row(case.name, (what, float(value), unit), options.json)


if __name__ == "__main__":
    sys.exit(run_on_devices("seeds.py", main))
