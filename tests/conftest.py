"""Settings of every test: strict shapes, exact CPU matmuls, quiet libraries."""

import os
import shutil
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# One compilation for all tests, pytest-xdist's processes and those that tests start:
# runs that differ in data and seed only have the same programs.
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(
    tempfile.gettempdir(),
    "dynvgd_jax-tests-" + os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid())),
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax
import pytest
from jaxtyping import install_import_hook

# Shapes in annotations are checked, and agree within a call.
install_import_hook("dynvgd_jax.diffusion", "beartype.beartype")

# Stops silent (N, B) - (B,) broadcasts and reduced-precision products.
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")


# Files that take longest begin first, so that the last ones are short.
LONGEST = (
    "training/test_wiring.py",
    "training/test_kills.py",
    "training/test_learning.py",
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


def pytest_unconfigure(config):
    """Removes the compiled programs, once the last process has ended."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(scope="module")
def quick_programs():
    """For runs whose programs are many and hardly used.

    XLA does not polish them, which halves the time; nothing waits for the disk.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)


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
    """The folder of that run, which nothing has disturbed; do not change it."""
    from dynvgd_jax.training.loop import train
    from tests.support.reach import ReachEnv

    folder = tmp_path_factory.mktemp("finished") / "run"
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
