"""Settings of every test: strict shapes, exact CPU matmuls, quiet libraries."""

import contextlib
import functools
import gc
import os
import shutil
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# One compilation for all tests, pytest-xdist's processes and those that tests start:
# runs that differ in data and seed only have the same programs. The first process says
# where, and removes it in the end; who says so before, as .ci/run does for its two
# calls, keeps it.
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ.setdefault(
    "DYNVGD_JAX_TESTS_PROGRAMS",
    os.path.join(tempfile.gettempdir(), f"dynvgd_jax-tests-{os.getpid()}"),
)
# Smaller ones are sooner compiled again than written.
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"

import jax
import numpy as np
import pytest
from jaxtyping import install_import_hook

# Tracing leaves millions of objects behind, which live on: look for garbage less often.
gc.set_threshold(50_000, 20, 20)

# Shapes in annotations are checked, and agree within a call.
install_import_hook("dynvgd_jax.diffusion", "beartype.beartype")

# Stops silent (N, B) - (B,) broadcasts and reduced-precision products.
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")


PROGRAMS = {}  # of `shared_programs`

# Files that take longest begin first, so that the last ones are short; before them one
# that compiles the simulator's code, half a minute, while the other process needs none.
LONGEST = (
    "envs/robosuite/test_control.py",
    "training/test_learning.py",
    "training/test_parallel.py",
    "training/test_wiring.py",
    "training/test_wiring_base_policies.py",
    "training/test_process_faults.py",
    "training/test_kills.py",
    "examples/test_own.py",
    "training/test_wired_runs.py",
    "torch_weights/test_critics.py",
)


def pytest_collection_modifyitems(items):
    """Puts the longest files first; the order inside a file stays."""

    def place(item):
        path = item.path.as_posix()
        found = (i for i, name in enumerate(LONGEST) if path.endswith(name))
        return next(found, len(LONGEST))

    items.sort(key=place)


def pytest_configure(config):
    """Tests do not wait for XLA to polish programs that run for a moment.

    Nor do the processes that they start. What computes for long is polished all the
    same, with `polished_programs`. They do not wait for the disk either: what a killed
    process has written stays in the kernel's memory.
    """
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    jax.config.update("jax_disable_most_optimizations", True)
    os.fsync = lambda descriptor: None
    # The emitters of before compile in half the time. XLA is gone when it is given a
    # flag that it does not know, as another release may not.
    if jax.__version__.startswith("0.9."):
        flags = os.environ.get("XLA_FLAGS", ""), "--xla_cpu_use_fusion_emitters=false"
        os.environ["XLA_FLAGS"] = " ".join(flags).strip()


def pytest_unconfigure(config):
    """Removes the compiled programs, once the last process has ended."""
    own = f"dynvgd_jax-tests-{os.getpid()}"
    if os.path.basename(os.environ["JAX_COMPILATION_CACHE_DIR"]) == own:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


# The emitters of today compute in half the time; the default level of optimisation
# compiled for 26 s where level 1 took 18, and left the same bits.
POLISH = {
    "xla_backend_optimization_level": 1,
    "xla_llvm_disable_expensive_passes": False,
}
if jax.__version__.startswith("0.9."):
    POLISH["xla_cpu_use_fusion_emitters"] = True


@contextlib.contextmanager
def polished(yes):
    """Whether XLA optimises the programs that are made or compiled in here."""
    before = jax.config.read("jax_disable_most_optimizations")
    with pytest.MonkeyPatch.context() as patch:
        options = POLISH if yes else None
        patch.setattr(jax, "jit", functools.partial(jax.jit, compiler_options=options))
        jax.config.update("jax_disable_most_optimizations", not yes)
        yield
        jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def polished_programs():
    """For what computes longer than it compiles."""
    with polished(True):
        yield


@pytest.fixture(scope="module")
def polished_updates():
    """For runs of whose programs the training call alone computes for long."""
    from dynvgd_jax.training import programs

    compile_update = programs._compile_update

    def compile_polished(*arguments):
        with polished(True):
            return compile_update(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "_compile_update", compile_polished)
        yield


@contextlib.contextmanager
def sharing_programs():
    """Runs of equal configurations and policies trace their programs once."""
    from dynvgd_jax.core.fields import field_names, get_field
    from dynvgd_jax.training import setup
    from dynvgd_jax.training.resume import CHANGEABLE

    compile_programs = setup.compile_programs
    apart = tuple(set(CHANGEABLE) - {"replay.offline_dataset"})  # it is drawn from

    def compile_once(config, policy, method, placement):
        names = [n for n in field_names(config) if not n.startswith(apart)]
        fields = [(name, get_field(config, name)) for name in names]
        sizes = (policy.kind, policy.spec)
        leaves, tree = jax.tree.flatten(policy.params)
        weights = [(leaf.shape, leaf.tobytes()) for leaf in map(np.asarray, leaves)]
        hasty = jax.config.read("jax_disable_most_optimizations")
        key = repr((fields, sizes, tree, weights, placement, hasty))
        if key not in PROGRAMS:
            PROGRAMS[key] = compile_programs(config, policy, method, placement)
        return PROGRAMS[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "compile_programs", compile_once)
        yield


@pytest.fixture(scope="module")
def shared_programs():
    """For tests that begin and resume one and the same run again and again.

    Its programs depend on nothing but the configuration and the policy. That a resumed
    run makes its own is seen where a test starts processes.
    """
    with sharing_programs():
        yield


@pytest.fixture(scope="session")
def toy_policy(tmp_path_factory):
    """The folder of a base policy for tests/support/reach.py."""
    from tests.support.tiny_run import random_policy

    return random_policy(tmp_path_factory.mktemp("policy") / "policy")


@pytest.fixture(scope="session")
def toy_config(toy_policy):
    """A small run in tests/support/reach.py with many checkpoints."""
    from tests.support.tiny_run import MANY_CHECKPOINTS, tiny

    return tiny(toy_policy, **MANY_CHECKPOINTS)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, toy_config):
    """The folder of that run, which nothing has disturbed; do not change it.

    Its programs are unpolished: it is compared with processes that tests start.
    """
    from dynvgd_jax.training.loop import train
    from tests.support.reach import ReachEnv

    folder = tmp_path_factory.mktemp("finished") / "run"
    with sharing_programs(), polished(False):
        train(toy_config, folder, make_env=ReachEnv)
    return folder


@pytest.fixture(scope="session")
def simulator_pool():
    """robosuite's simulators, built once for all tests of this process."""
    from tests.support.simulators import Pool

    return Pool()


@pytest.fixture
def simulators(simulator_pool, monkeypatch):
    """Takes simulators from the pool wherever one would be built, for one test."""
    from dynvgd_jax.envs.robosuite import build, vector

    for module in (build, vector):
        monkeypatch.setattr(module, "build_env", simulator_pool.take)
    yield
    simulator_pool.give_back()
