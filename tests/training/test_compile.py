"""How seeds and devices share values: every kind, on one device and on several."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynvgd_jax.training.compile import (
    HELD,
    SAME,
    SHARED,
    SPREAD,
    Kind,
    compile_for,
    local,
    make_put,
)
from dynvgd_jax.training.placement import ONE_DEVICE, Placement
from tests.support.command import ROOT, environment


def test_every_kind_on_every_placement():
    """In a process with 8 virtual devices; tests/support/parallel_child.py compares."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.parallel_child", "kinds"],
        cwd=ROOT,
        env=environment(XLA_FLAGS="--xla_force_host_platform_device_count=8"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "1 seeds, 1 devices": 1,
        "3 seeds, 1 devices": 1,
        "1 seeds, 4 devices": 1,
        "2 seeds, 4 devices": 2,
        "4 seeds, 4 devices": 4,
        "4 seeds, 2 devices": 2,
    }


def test_the_four_kinds():
    assert (SPREAD, SHARED, HELD, SAME) == tuple(Kind)


def test_one_seed_on_one_device_is_the_function_itself():
    """Nothing of seeds and devices is in the program."""
    function = lambda a, b: a * b + 1  # noqa: E731
    run = compile_for(ONE_DEVICE, function, (SPREAD, SAME), SPREAD)
    text = run.lower(jnp.ones(3), jnp.ones(3)).as_text()
    assert text == jax.jit(function).lower(jnp.ones(3), jnp.ones(3)).as_text()


def test_seeds_are_stacked_and_what_is_the_same_is_not():
    seeds = Placement(num_seeds=3)

    def function(state, same, held):
        assert state["a"].shape == (2,) and same.shape == (5,) and held.shape == (4,)
        return {"a": state["a"] + jnp.sum(same), "b": jnp.sum(held)}

    run = compile_for(seeds, function, (SPREAD, SAME, HELD), {"a": SPREAD, "b": SHARED})
    a = np.arange(6, dtype=np.float32).reshape(3, 2)
    put = make_put(seeds)([{"a": row} for row in a])
    found = run(put, np.ones(5, np.float32), np.ones(4, np.float32))
    np.testing.assert_array_equal(found["a"], a + 5)
    np.testing.assert_array_equal(found["b"], [4, 4, 4])


def test_an_argument_may_be_of_several_kinds():
    seeds = Placement(num_seeds=2)
    run = compile_for(
        seeds, lambda tree: tree["x"] + tree["y"], ({"x": SPREAD, "y": SAME},), SPREAD
    )
    found = run({"x": jnp.array([1.0, 2.0]), "y": jnp.float32(10)})
    np.testing.assert_array_equal(found, [11, 12])


@pytest.mark.parametrize("donate", [(), (0,)])
def test_only_what_is_donated_is_given_away(donate):
    run = compile_for(ONE_DEVICE, lambda a: a + 1, (SPREAD,), SPREAD, donate=donate)
    a = jnp.arange(3.0)
    np.testing.assert_array_equal(run(a), [1, 2, 3])
    assert a.is_deleted() == bool(donate)


def test_local_leaves_what_is_not_on_a_device():
    tree = {"key": jax.random.key(0), "host": np.ones(3), "number": 4, "none": None}
    found = local(tree)
    assert all(found[name] is tree[name] for name in tree)
    placed = jnp.arange(3)
    np.testing.assert_array_equal(local(placed), placed)


@pytest.mark.parametrize("groups", [1, 2])
def test_arrays_of_several_seeds_reach_the_devices_as_one(groups):
    """NumPy's stay on the host until the call, keys are stacked by one program."""
    placement = Placement(num_seeds=4, num_devices=groups, num_groups=groups)
    placement = placement._replace(num_local=groups)
    obs = np.random.default_rng(0).random((4, 3, 2)).astype(np.float32)
    keys = [jax.random.key(seed) for seed in range(4)]
    spread = placement.spread([{"obs": o, "key": k} for o, k in zip(obs, keys)])
    lead = (4,) if groups == 1 else (2, 2)
    assert isinstance(spread["obs"], np.ndarray)
    np.testing.assert_array_equal(spread["obs"], obs.reshape(*lead, 3, 2))
    expected = jnp.stack(keys).reshape(lead)
    assert (spread["key"] == expected).all() and spread["key"].shape == lead
