"""What `accelerator.py` measures, a part at a time, each by itself in its process.

A part yields rows as they are known, so that one that is cut off has said something.
Names of rows that `accelerator.derived` puts together stand here as constants.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.learner_setup import (
    STORED,
    Case,
    Learner,
    Row,
    act_inputs,
    make_case,
    random_transitions,
)

# isort: split
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks.kernel_trace import profile_rows, record
from benchmarks.learner import act_rows
from benchmarks.learner_flops import call_products, flops
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.jax_start import cuda_command
from dynvgd_jax.core.precision import PRECISIONS, with_precision

TASK, DDIM = "square", 8  # of the learner's cases, as SPEC and docs/scaling.md
ACT_ENVS = 8
SEEDS = (1, 2, 4, 8)
PROFILED_CALLS = 2
VECTOR_STEPS = {"explored": 20, "learning": 100}  # of a whole run
LOG_VECTOR_STEPS = 10

PRODUCT, COPY = "product", "copy"
STEP, COUNT = "gradient step", "gradient step: products by formula"
PARAMETERS = "critics' parameters"

Rows = Iterator[Row]


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large the parts are."""

    product: int = 8192  # rows and columns
    copied: int = 2**28  # float32 numbers
    rounds: int = 5
    changes: tuple[tuple[str, object], ...] = ()  # to every configuration
    seeds: tuple[int, ...] = SEEDS
    vector_steps: int = VECTOR_STEPS["learning"]


TINY = Scale(
    product=64,
    copied=2**10,
    rounds=1,
    changes=(("critic.width", 16), ("batch_size", 16), ("utd", 2), ("num_envs", 2)),
    seeds=(1, 2),
    vector_steps=30,
)


def require_gpu() -> None:
    """Raises UserError where JAX computes on something else."""
    found = jax.default_backend()
    if found != "gpu":
        raise UserError(
            f"--device=gpu: JAX finds none here and computes on {found}; install its "
            f"part for NVIDIA GPUs ({cuda_command()}), or give --device=cpu --tiny"
        )


def median_seconds(call: Callable[[], object], rounds: int) -> float:
    """Returns the median seconds of a call; the first is not counted."""
    call()
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def memory_rows() -> Rows:
    """The most memory that this process held on the device, where it says so."""
    statistics = jax.local_devices()[0].memory_stats()
    if statistics:
        yield "device memory, most", statistics["peak_bytes_in_use"] / 1e6, "MB"


def ceilings(scale: Scale) -> Rows:
    """Plain products in every precision, and a copy of a large array."""
    n = scale.product
    for precision in PRECISIONS:
        dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
        x = jnp.full((n, n), 0.5, dtype)
        product = jax.jit(with_precision(jnp.matmul, precision))

        def call(product=product, x=x):
            jax.block_until_ready([product(x, x) for _ in range(4)])

        seconds = median_seconds(call, scale.rounds) / 4
        yield f"{PRODUCT} {n}^3, {precision}", 2 * n**3 / seconds / 1e12, "TFLOP/s"
    x = jnp.zeros(scale.copied)
    add = jax.jit(lambda x: x + 1)

    def copy():
        jax.block_until_ready([add(x) for _ in range(4)])

    seconds = median_seconds(copy, scale.rounds) / 4
    yield f"{COPY}, read and written", 2 * x.nbytes / seconds / 1e12, "TB/s"


def learner_case(scale: Scale, precision: str, size: str = "published") -> Case:
    """Returns the published configuration of the learner, or one of another size."""
    changes = dict(scale.changes) | {"precision": precision}
    return make_case(TASK, DDIM, size, **changes)


def learner(scale: Scale, precision: str) -> Rows:
    """Gradient step, its kernels, acting and memory of the published configuration."""
    case = learner_case(scale, precision)
    begin = time.perf_counter()
    own = Learner(case)
    yield "training call: trace and compile", time.perf_counter() - begin, "s"
    utd = case.config.utd
    yield STEP, 1e3 * median_seconds(own.call, scale.rounds) / utd, "ms"
    yield COUNT, flops(call_products(case.config, case.policy)) / utd / 1e9, "GFLOP"
    leaves = jax.tree.leaves(own.state.critic.params)
    yield PARAMETERS, sum(leaf.nbytes for leaf in leaves) / 1e6, "MB"
    cost = own.compiled.cost_analysis() or {}
    if "bytes accessed" in cost:  # of a loop XLA counts one round
        value = cost["bytes accessed"] / 1e6
        yield "training call: bytes by XLA's analysis, a loop's once", value, "MB"
    yield from memory_rows()
    calls = 20 * scale.rounds
    yield from act_rows(case, calls, time.perf_counter, (ACT_ENVS,))
    # last, since it asks most of the machine: a profiler that may be missing
    yield from profile_rows(record(own.call, PROFILED_CALLS), PROFILED_CALLS * utd)


def pytorch(scale: Scale, device: str) -> Rows:
    """The published call in PyTorch; JAX is on the CPU here, and draws the weights.

    `device` is "cuda" or "cpu".
    """
    import torch

    from benchmarks.learner_torch import make_torch_learner

    torch.set_default_device(device)
    case = learner_case(scale, "float32")
    case.config.utd = 2  # it takes long, and the others take no less
    params = jax.jit(case.method.init)(jax.random.key(0)).critic.params
    theirs = make_torch_learner(case, jax.device_get(params))

    def tensors(*arrays):
        return [torch.from_numpy(np.asarray(a)).to(device) for a in arrays]

    stored = random_transitions(case, STORED, 0)
    replay = jax.tree.map(lambda leaf: tensors(leaf)[0], stored)
    inputs = act_inputs(case.policy, ACT_ENVS)
    for precision, allowed in (("float32", False), ("tf32", True)):
        torch.backends.cuda.matmul.allow_tf32 = allowed

        def update():
            theirs.update(replay)

        def act():
            theirs.act(*tensors(inputs.obs, inputs.noise)).cpu().numpy()

        seconds = median_seconds(update, scale.rounds) / case.config.utd
        yield f"{STEP}, {precision}", 1e3 * seconds, "ms"
        seconds = median_seconds(act, 2 * scale.rounds)
        yield f"acting, {ACT_ENVS} environments, {precision}", 1e3 * seconds, "ms"
        if device == "cpu":
            return  # which has no other precision


def seeds(scale: Scale) -> Rows:
    """The training call of `:gpu` for several seeds side by side."""
    from benchmarks.seeds import Learners

    case = learner_case(scale, "tf32", "gpu")
    alone = None
    for count in scale.seeds:
        several = Learners(case, count)
        seconds = float(np.median([several.seconds() for _ in range(scale.rounds)]))
        del several
        alone = alone or seconds
        yield f"training call, seeds side by side: {count}", 1e3 * seconds, "ms"
        yield f"the same in times of one seed's: {count}", seconds / alone, "1"
    yield from memory_rows()


def short_run(config: ConfigDict, vector_steps: int, chunk_len: int = 4) -> ConfigDict:
    """Returns `config` of a run that learns for so many vector steps, then ends."""
    config = config.copy_and_resolve_references().unlock()
    step = config.num_envs * chunk_len
    explored = VECTOR_STEPS["explored"]
    total = (explored + vector_steps) * step
    config.update_from_flattened_dict(
        {
            "first_rollout_env_steps": explored * step,
            "total_env_steps": total,
            "log.every_env_steps": LOG_VECTOR_STEPS * step,
            "eval.every_env_steps": total,
            "eval.episodes": 1,
            "eval.num_envs": 1,
            "eval.noises": (config.acting_noise,),
            "checkpoint.every_env_steps": 10 * total,
        }
    )
    return config.lock()


def run_rows(config: ConfigDict, make_env=None) -> Rows:
    """The time line of a vector step, and control steps per second, of a whole run.

    Its evaluations, its first training call, which compiles, and what is logged of the
    twenty vector steps from that on are not counted.
    """
    from dynvgd_jax.report.events import read_curves
    from dynvgd_jax.training.loop import train

    with tempfile.TemporaryDirectory() as folder:
        train(config, Path(folder) / "run", make_env)
        curves = read_curves(Path(folder) / "run")
    warm = config.first_rollout_env_steps + 2 * config.log.every_env_steps
    rates = curves["time/control_steps_per_s"]
    counted = rates.steps > warm
    for activity in ("act", "rollout", "propose", "update", "idle"):
        value = float(np.mean(curves[f"time/{activity}_ms"].values[counted]))
        yield f"vector step: {activity}", value, "ms"
    # of intervals of equal length
    rate = 1 / float(np.mean(1 / rates.values[counted]))
    yield "control steps per second", rate, "1/s"


def whole_run(scale: Scale, task: str, preset: str) -> Rows:
    """A short run of a configuration in TensorFloat-32 on the task itself."""
    changes = dict(scale.changes) | {"precision": "tf32"}
    case = make_case(task, DDIM, preset, **changes)
    yield from run_rows(short_run(case.config, scale.vector_steps))
    yield from memory_rows()
