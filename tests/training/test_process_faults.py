"""Faults in one of several processes, of several seeds: all end, nothing is lost.

What holds for one process and one seed is in test_faults.py.
"""

import errno

import numpy as np
import pytest

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.training.loop import train
from dynvgd_jax.training.resume import ResumeStore, find_saved
from dynvgd_jax.training.setup import seed_configs, seed_folders
from tests.support.cluster import finish, run, seconds_between_ends, start
from tests.support.disk import InjectedDisk
from tests.support.reach import ReachEnv, acting_at
from tests.support.same_run import arrays, assert_equal_runs
from tests.support.tiny_run import MANY_CHECKPOINTS, VECTOR_STEP, random_policy, tiny

SEEDS = {"num_seeds": 2} | MANY_CHECKPOINTS
# Longer than a process needs to hear of the other's failure and to end, on a busy
# machine, and shorter than JAX's own patience of five minutes.
SOON_S = 60
BASE_STEPS = 2 * 8  # of environments, in the two evaluations before training


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return random_policy(tmp_path_factory.mktemp("policy") / "policy")


@pytest.fixture(scope="module")
def pair(tmp_path_factory, policy):
    """The folder of an unbroken run of two processes and two seeds."""
    folder = tmp_path_factory.mktemp("pair") / "run"
    run(2, policy, folder, **SEEDS)
    return folder


def assert_same(folder, pair):
    for seed in ("seed0", "seed1"):
        assert_equal_runs(folder / seed, pair / seed)


def common_steps(folder):
    stores = [ResumeStore(folder / seed) for seed in ("seed0", "seed1")]
    return sorted(set.intersection(*(set(store.candidates()) for store in stores)))


def assert_goes_on(folder, policy, pair):
    """The newest common checkpoint is sound, and the finished run is the same."""
    run(2, policy, folder, "--resume", **SEEDS)
    assert_same(folder, pair)


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_one_seeds_disk_that_stays_broken_ends_all_with_a_common_checkpoint(
    toy_policy, tmp_path, monkeypatch, number
):
    """In one process: the other seed loses nothing that both have."""
    config = tiny(toy_policy, total_env_steps=8 * VECTOR_STEP, **SEEDS)
    disk = InjectedDisk(number, "seed1", monkeypatch.setattr)
    with pytest.raises(UserError, match="what was saved before is kept") as caught:
        actions = {BASE_STEPS + 2 * 6: disk.fill}
        train(config, tmp_path / "run", make_env=acting_at(actions))
    assert "\n" not in str(caught.value)
    disk.free()
    assert common_steps(tmp_path / "run") == [0, 5 * VECTOR_STEP]
    folders = seed_folders(tmp_path / "run", config)
    saved = find_saved(folders, seed_configs(config))
    assert [s.env_steps for s in saved] == [5 * VECTOR_STEP] * 2
    train(config, tmp_path / "run", make_env=ReachEnv, resume=True)
    train(config, tmp_path / "unbroken", make_env=ReachEnv)
    for seed in ("seed0", "seed1"):
        assert_equal_runs(tmp_path / "run" / seed, tmp_path / "unbroken" / seed)


@pytest.mark.slow
def test_a_disk_that_refuses_one_seed_for_a_while_changes_nothing(
    tmp_path, policy, pair
):
    # over the checkpoints at 10, 11 and 15 vector steps, and an evaluation
    disk = f"EIO:seed1:{BASE_STEPS + 2 * 7}:{BASE_STEPS + 2 * 18 + 16}"
    first, _ = run(2, policy, tmp_path / "run", variables={0: {"DISK": disk}}, **SEEDS)
    for count in (10, 11, 15):
        assert f"no checkpoint at {count * VECTOR_STEP:,} control steps" in first
    assert_same(tmp_path / "run", pair)


@pytest.mark.slow
def test_a_disk_that_refuses_one_seed_for_good_ends_all_processes(
    tmp_path, policy, pair
):
    folder = tmp_path / "run"
    disk = f"ENOSPC:seed1:{BASE_STEPS + 2 * 7}:1000"
    started = start(2, policy, folder, variables={0: {"DISK": disk}}, **SEEDS)
    assert seconds_between_ends(started) < SOON_S
    for code, errors in finish(started):
        assert code == 2 and "Traceback" not in errors, errors
        assert errors.count("what was saved before is kept; free space") == 1
    assert common_steps(folder) == [0, 5 * VECTOR_STEP]
    assert_goes_on(folder, policy, pair)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_takes_the_other_with_it(tmp_path, policy, pair, killed):
    """Process 0 inside a checkpoint; JAX ends the others then, in its own words."""
    folder = tmp_path / "run"
    how = {
        0: {"DISK": f"kill:seed1/resume:{BASE_STEPS + 2 * 7}:1000"},
        1: {"KILL_AT": BASE_STEPS + 2 * 8},
    }
    variables = {killed: how[killed]}
    started = start(2, policy, folder, variables=variables, **SEEDS)
    assert seconds_between_ends(started) < SOON_S
    ended = finish(started)
    assert ended[killed][0] == -9
    code, errors = ended[1 - killed]
    if killed == 1:
        assert code == 2 and "Traceback" not in errors, errors
        assert errors.count("launch.py: another process of this run is gone") == 1
    else:
        assert code not in (0, None) and "another task died" in errors
    assert common_steps(folder)[-1] >= 5 * VECTOR_STEP
    assert_goes_on(folder, policy, pair)


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_a_failure_of_one_process_ends_the_other_with_its_words(
    tmp_path, policy, pair, failing
):
    """The other one waits in an exchange with the one that has failed."""
    folder = tmp_path / "run"
    variables = {failing: {"NAN_AT": BASE_STEPS + 2 * 8}}
    started = start(2, policy, folder, variables=variables, **SEEDS)
    assert seconds_between_ends(started) < SOON_S
    ended = finish(started)
    for code, errors in ended:
        assert code == 2 and "Traceback" not in errors, errors
        assert errors.count("not finite") == errors.count("launch.py: ") == 1
        assert "Terminating process" not in errors
    said = ended[1 - failing][1]
    assert f"launch.py: process {failing} of this run failed: environment" in said
    assert_goes_on(folder, policy, pair)


@pytest.mark.slow
def test_a_checkpoint_that_one_process_cannot_read_ends_all(tmp_path, policy, pair):
    """After all have found it sound; nothing in the folder changes."""
    folder = tmp_path / "run"
    run(2, policy, folder, vector_steps=16, **SEEDS)
    before = arrays(folder / "seed1", 16 * VECTOR_STEP)
    broken = {"variables": {1: {"REPLAY": "EIO"}}}
    started = start(2, policy, folder, "--resume", **broken, **SEEDS)
    assert seconds_between_ends(started) < SOON_S
    for code, errors in finish(started):
        assert code == 2 and "Traceback" not in errors, errors
        assert errors.count("Input/output error") == 1
    after = arrays(folder / "seed1", 16 * VECTOR_STEP)
    assert all(np.array_equal(after[name], value) for name, value in before.items())
    run(2, policy, folder, "--resume", **SEEDS)
    last = 24 * VECTOR_STEP
    found, want = arrays(folder / "seed1", last), arrays(pair / "seed1", last)
    for name, value in want.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
