"""Our learner against the published training call in PyTorch, in turns.

    python -m benchmarks.learner_torch [--tasks=square] [--ddim=8]
        [--sizes=published,small] [--rounds=5] [--utd=2] [--clock=wall]
        [--json]

Needs requirements-torch.txt. Both run in one process with the same weights, ours and
PyTorch's (torch_learner.py, statistics as published) by turns; a ratio is the median
over rounds of ours / PyTorch's. With `--utd` smaller than the configuration's 20 our
share of fixed costs grows, so the ratio is an upper bound.
"""

from collections.abc import Callable, Iterator

from benchmarks.learner_setup import (
    CLOCKS,
    STORED,
    Case,
    Learner,
    Row,
    act_inputs,
    case_flags,
    cases,
    print_row,
    random_transitions,
)

# isort: split
import sys

import jax
import numpy as np
import torch

from benchmarks.torch_learner import TorchLearner
from dynvgd_jax.core.jax_start import run_on_devices
from dynvgd_jax.diffusion.schedule import ddim_schedule
from dynvgd_jax.torch_weights.layouts import from_flax

ACT_ENVS = 8


def make_torch_learner(case: Case, params) -> TorchLearner:
    """Returns PyTorch's learner with the policy of `case` and critics `params`.

    It is on PyTorch's default device.
    """
    policy = case.policy
    device = torch.get_default_device()
    tensors = {
        key: torch.from_numpy(array.copy()).to(device)
        for key, array in from_flax(policy.network, policy.params).items()
    }
    return TorchLearner(
        case.config,
        ddim_schedule(policy.schedule, case.config.ddim_steps),
        tensors,
        policy.network.activation,
        (policy.chunk_len, policy.action_dim),
        params,
    )


def in_turns(
    ours: Callable, theirs: Callable, rounds: int, clock: Callable
) -> tuple[float, ...]:
    """Returns the median seconds of both and the median of their ratios."""
    times = []
    for _ in range(rounds + 1):
        marks = [clock()]
        for run in (ours, theirs):
            run()
            marks.append(clock())
        times.append(np.diff(marks))
    times = np.array(times[1:])  # the first round compiles and warms up
    return (*np.median(times, axis=0), float(np.median(times[:, 0] / times[:, 1])))


def rows(case: Case, rounds: int, clock: Callable) -> Iterator[Row]:
    """Times gradient steps and acting."""
    learner, utd = Learner(case), case.config.utd
    theirs = make_torch_learner(case, jax.device_get(learner.state.critic.params))
    stored = random_transitions(case, STORED, 0)
    replay = jax.tree.map(torch.from_numpy, stored)
    own, other, ratio = in_turns(
        learner.call, lambda: theirs.update(replay), rounds, clock
    )
    yield "gradient step, ours", own / utd, "s"
    yield "gradient step, PyTorch", other / utd, "s"
    yield "gradient step, ours / PyTorch", ratio, "1"

    inputs = act_inputs(case.policy, ACT_ENVS)
    act = jax.jit(case.method.act)
    state, params = learner.state, learner.params

    def act_ours():
        np.asarray(act(state, params, inputs).chunk)

    def act_theirs():
        theirs.act(*map(torch.from_numpy, (inputs.obs, inputs.noise))).numpy()

    own, other, ratio = in_turns(act_ours, act_theirs, 5 * rounds, clock)
    yield f"acting, {ACT_ENVS} environments, ours", 1e3 * own, "ms"
    yield f"acting, {ACT_ENVS} environments, PyTorch", 1e3 * other, "ms"
    yield f"acting, {ACT_ENVS} environments, ours / PyTorch", ratio, "1"


def main():
    options = case_flags(__doc__, tasks="square", ddim="8", utd=2).parse_args()
    for case in cases(options):
        for row in rows(case, options.rounds, CLOCKS[options.clock]):
            print_row(case.name, row, options.json)


if __name__ == "__main__":
    sys.exit(run_on_devices("learner_torch.py", main))
