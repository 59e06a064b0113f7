"""Settings of every test: strict shapes, exact CPU matmuls, quiet libraries."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MUJOCO_GL", "disabled")

import jax
import pytest

# Stops silent (N, B) - (B,) broadcasts and reduced-precision products.
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory):
    """Compiled programs that modules and processes share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def compilation_cache(cache_folder):
    """One compilation for all runs of a module that differ in data and seed only."""
    settings = {
        "jax_compilation_cache_dir": str(cache_folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


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
