"""What the learner's benchmarks share: a configuration's programs with random data."""

import argparse
import importlib
import json
import os
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import numpy as np
from ml_collections import ConfigDict

from dynvgd_jax.core.types import Transition
from dynvgd_jax.diffusion.policy import Policy
from dynvgd_jax.diffusion.policy_files import load_policy
from dynvgd_jax.replay.ring import add, example_transition, init_replay
from dynvgd_jax.steering.base import ActInputs, Method
from dynvgd_jax.steering.methods import build_method
from dynvgd_jax.training.programs import call_on_ring
from dynvgd_jax.training.replay_memory import Draw, make_draw

# "small" is the published method with critics for a CPU; "gpu" chooses among stored
# proposals.
PRESETS = {"published": "", "small": "published_quick", "gpu": "gpu"}
STORED = 20_000  # transitions in the buffer

# The CPU's clock counts less of other work, but all threads together: with one thread
# (taskset -c 0) it is what a busy machine can be asked.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

Row = tuple[str, float, str]  # what, value, unit


class Case(NamedTuple):
    """One configuration of the learner, ready to be timed."""

    name: str  # such as "square, DDIM 8, published"
    config: ConfigDict
    policy: Policy
    method: Method


def make_case(
    task: str, ddim_steps: int, size: str, utd: int = 0, **changes: Any
) -> Case:
    """Returns the case of `configs/<task>_ddim<steps>.py`; `utd` 0 is the config's.

    `changes` are fields of the configuration that shall have other values.
    """
    module = importlib.import_module(f"configs.{task}_ddim{ddim_steps}")
    config = module.get_config(PRESETS[size])
    config.utd = utd or config.utd
    config.update_from_flattened_dict(changes)
    policy = load_policy(f"builtin:{task}")
    method = build_method(config, policy)
    words = [task, f"DDIM {ddim_steps}", size, *changes.values()]
    return Case(", ".join(map(str, words)), config, policy, method)


def case_flags(
    description: str, tasks: str, ddim: str, utd: int
) -> argparse.ArgumentParser:
    """Returns the flags that choose cases, with these defaults."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--tasks", default=tasks)
    parser.add_argument("--ddim", default=ddim)
    parser.add_argument("--sizes", default="published,small")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--utd", type=int, default=utd, help="0 is the config's")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--json", action="store_true", help="one object per line")
    return parser


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """Returns the cases that the flags choose."""
    for task in options.tasks.split(","):
        for steps in map(int, options.ddim.split(",")):
            for size in options.sizes.split(","):
                yield make_case(task, steps, size, options.utd)


def print_row(name: str, row: Row, as_json: bool) -> None:
    """Prints one result as a line of text or as a JSON object."""
    what, value, unit = row
    value = float(f"{value:.4g}")
    if as_json:
        fields = {"task": name, "what": what, "value": value, "unit": unit}
        print(json.dumps(fields), flush=True)
    else:
        print(f"{name:28} {what:44} {value:10.4g} {unit}", flush=True)


def flat_action_dim(policy: Policy) -> int:
    """Returns Ta * Da."""
    return policy.chunk_len * policy.action_dim


def random_transitions(case: Case, count: int, seed: int) -> Transition:
    """Returns transitions of plausible size, `[count, ...]` on the host."""
    policy, rng = case.policy, np.random.default_rng(seed)

    def uniform(*shape):
        return rng.uniform(-1, 1, (count, *shape)).astype(np.float32)

    return Transition(
        obs=uniform(policy.obs_dim),
        action=uniform(flat_action_dim(policy)),
        reward=2 * uniform() - 2,
        next_obs=uniform(policy.obs_dim),
        discount=(rng.random(count) >= 0.01).astype(np.float32),
        ended=np.zeros(count, bool),
        next_extras={
            name: uniform(*leaf.shape).astype(leaf.dtype)
            for name, leaf in case.method.next_extras.items()
        },
    )


def stored_example(case: Case) -> Transition:
    """Returns one transition as the case's replay buffer keeps it."""
    method, sizes = case.method, (case.policy.obs_dim, flat_action_dim(case.policy))
    return example_transition(*sizes, method.extras, method.next_extras)


def case_draw(case: Case) -> Draw:
    """Returns what the case's training call draws."""
    return make_draw(case.config, case.method.follows, case.method.more_batches)


def act_inputs(policy: Policy, num_envs: int) -> ActInputs:
    """Returns random observations `[B, Do]` and start noise `[B, Ta, Da]`."""
    rng = np.random.default_rng(num_envs)
    obs = rng.uniform(-1, 1, (num_envs, policy.obs_dim)).astype(np.float32)
    noise = rng.normal(size=(num_envs, policy.chunk_len, policy.action_dim))
    nothing = dict.fromkeys(("key", "seeds", "chunk_index", "episode"))
    return ActInputs(
        obs, **nothing, env_steps=np.int32(0), noise=noise.astype(np.float32)
    )


class Learner:
    """The compiled training call with its state, as the training loop holds it."""

    def __init__(self, case: Case):
        self.case, self.calls = case, 0
        self.params = jax.device_put(case.policy.params)
        self.state = jax.jit(case.method.init)(jax.random.key(0))
        self.replay = jax.jit(add, donate_argnums=0)(
            init_replay(STORED, stored_example(case)),
            random_transitions(case, STORED, 0),
        )
        self.key = jax.random.key(1)
        call = call_on_ring(case.method, case_draw(case))
        lowered = jax.jit(call, donate_argnums=0).lower(*self._inputs())
        self.compiled = lowered.compile()

    def call(self) -> None:
        """One training call, waited for."""
        self.calls += 1
        self.state, _ = self.compiled(*self._inputs())
        jax.block_until_ready(self.state)

    def _inputs(self) -> tuple:
        key = jax.random.fold_in(self.key, self.calls)
        return self.state, self.replay, self.params, key, np.int32(0)
