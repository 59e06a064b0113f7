"""Several devices and seeds, in a process with 8 virtual devices, equal one alone."""

import functools
import json
import shutil
import subprocess
import sys

import pytest

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.training.placement import Placement, require_shares
from tests.support.command import ROOT, as_users_run, environment
from tests.support.tiny_run import random_policy

# By the number of devices.
METHODS = {
    1: ("dynvgd", "proposals"),
    2: ("dynvgd", "golden_ticket", "proposals", "edit", "dsrl_na", "dsrl_sac"),
}


def child(*arguments, devices=8):
    flags = f"--xla_force_host_platform_device_count={devices}"
    # A user's programs go on bit for bit. Unpolished ones of the choice among proposals
    # do not: from equal inputs their gradients differ in the last bit, unexplained.
    trains = arguments[0] in ("run", "begin", "resume")
    variables = as_users_run if trains else environment
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.parallel_child", *map(str, arguments)],
        cwd=ROOT,
        env=variables(XLA_FLAGS=flags),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def found():
    return child("math")


@pytest.mark.slow
@pytest.mark.parametrize("num_devices", ["2", "4", "8"])
def test_one_global_batch_gives_the_parameters_of_one_device(found, num_devices):
    """Two calls of two gradient steps, up to the order of sums."""
    assert found["devices"] == 8
    result = found["learning"][num_devices]
    assert found["moved"] > 1e-3  # Adam's steps of 1e-3 did move the parameters
    assert result["difference"] < 1e-5
    assert max(result["metrics"]) < 1e-4
    assert result["replicas_equal"]


@pytest.mark.slow
def test_training_calls_share_replay_and_keep_replicas_equal(found):
    result = found["compiled"]
    assert result["replicas_equal"] and result["finite"]
    assert result["num_updates"] == 3 * 2
    # One store and three calls of 8 transitions, a quarter on each device; 98 slots.
    assert result["sizes"] == [4 * 8 // 4] * 4
    assert result["capacity"] == 25
    assert result["shards"] and result["replay_devices"] == 4
    assert set(result["local_devices"]) == {1}


@pytest.mark.slow
def test_every_device_draws_its_own_batches(found):
    assert len(set(found["draws"])) == 8


@pytest.mark.slow
def test_runs_resume_bit_for_bit_and_on_fewer_devices(tmp_path):
    policy = random_policy(tmp_path / "policy")

    def run(name, vector_steps, devices=2):
        job = ("run", policy, tmp_path / name, vector_steps)
        result = child(*job, devices=devices)
        assert result["devices"] == devices
        return result

    unbroken = run("unbroken", 24)
    assert run("resumed", 16)["num_updates"] < unbroken["num_updates"]
    shutil.copytree(tmp_path / "resumed", tmp_path / "fewer")
    assert run("resumed", 24) == unbroken
    fewer = run("fewer", 24, devices=1)
    assert fewer["num_updates"] == unbroken["num_updates"]
    assert fewer["learner"] != unbroken["learner"]  # other batches, other rounding


@pytest.mark.slow
def test_seeds_side_by_side_learn_as_alone():
    """Stacked on one device, spread over devices, and both; each on its own batches."""
    found = child("seeds")
    groups = {"4 seeds, 1 devices": 1, "4 seeds, 2 devices": 2, "4 seeds, 4 devices": 4}
    groups |= {
        "1 seeds, 8 devices": 1,
        "4 seeds, 8 devices": 4,
        "6 seeds, 4 devices": 2,
        "4 seeds, 8 devices, host memory": 4,
    }
    assert {name: result["groups"] for name, result in found.items()} == groups
    for result in found.values():
        assert result["difference"] < 5e-6 and result["apart"] > 0.1


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory):
    """Devices -> method -> an unbroken run, one of fewer steps, the same gone on with.

    One process makes the first two of all methods, another one the third.
    """

    @functools.cache
    def found(devices):
        folder = tmp_path_factory.mktemp("two_seeds")
        policy, methods = random_policy(folder / "policy"), METHODS[devices]
        begun = child("begin", policy, folder, *methods, devices=devices)
        resumed = child("resume", policy, folder, *methods, devices=devices)
        return {method: (*begun[method], resumed[method]) for method in methods}

    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "method"),
    [(devices, method) for devices in METHODS for method in METHODS[devices]],
)
def test_a_run_of_several_seeds_resumes_bit_for_bit(two_seeds, devices, method):
    unbroken, part, resumed = two_seeds(devices)[method]
    assert unbroken["devices"] == resumed["devices"] == devices
    assert part["learner"] != unbroken["learner"]
    learns = method != "golden_ticket"
    assert (part["num_updates"] < unbroken["num_updates"]) == learns
    assert resumed == unbroken


@pytest.mark.slow
def test_one_seed_tries_tickets_on_two_devices_as_on_one(tmp_path):
    """The first device decodes; what happened reaches the tickets of both."""
    policy = random_policy(tmp_path / "policy")
    found = [
        child(
            *("run", policy, tmp_path / str(devices), 24, 1, "golden_ticket"),
            devices=devices,
        )
        for devices in (1, 2)
    ]
    assert found[0].pop("devices") == 1 and found[1].pop("devices") == 2
    assert found[0] == found[1]


def test_sizes_that_cannot_be_shared_are_refused():
    four = Placement(num_devices=4, num_local=4)
    require_shares(four, batch_size=512, num_envs=8)
    with pytest.raises(UserError, match=r"config.num_envs: found 6, expected a mult"):
        require_shares(four, batch_size=512, num_envs=6)
