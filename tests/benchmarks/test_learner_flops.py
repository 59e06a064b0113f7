"""The benchmark's operation count against XLA's own, and what the benchmark loads."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.learner_flops import call_products, flops
from tests.support.programs import published, update_and_inputs

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "task, ddim_steps",
    [("square", 4), pytest.param("can", 8, marks=pytest.mark.slow)],
)
def test_count_agrees_with_xla(task, ddim_steps):
    """XLA also counts norms, activations and Adam: a few per cent at this width."""
    config, policy = published(task, ddim_steps)
    config.utd = 1  # XLA counts the body of a loop once
    program, inputs = update_and_inputs(config, policy)
    counted = program.lower(*inputs).cost_analysis()["flops"]
    ours = flops(call_products(config, policy))
    assert 0.97 < ours / counted <= 1.0


def test_benchmark_loads_neither_simulator_nor_torch():
    code = (
        "import sys; import benchmarks.learner; "
        "print({'mujoco', 'robosuite', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "set()"
