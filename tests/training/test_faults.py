"""Faults of disk, files, environments, critics and clock: nothing is lost."""

import errno
import os
import shutil
import subprocess
import time

import jax
import numpy as np
import pytest

from dynvgd_jax import load_agent
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.envs.rollout import evaluation_seeds
from dynvgd_jax.runs.durable import AppendFile
from dynvgd_jax.runs.lock import LOCK_FILE, FolderLock
from dynvgd_jax.training import saving, setup
from dynvgd_jax.training.loop import train
from dynvgd_jax.training.resume import find_saved
from tests.support.disk import InjectedDisk
from tests.support.reach import PowerCutError, ReachEnv, acting_at, breaking
from tests.support.same_run import assert_equal_runs, scalars
from tests.support.tiny_run import MANY_CHECKPOINTS, VECTOR_STEP, tiny

pytestmark = pytest.mark.usefixtures("shared_programs")

BASE_CHUNKS = 16  # environment steps of the two evaluations before training


class SmallDisk:
    """A real file system of 4 MB that a file fills to the last byte."""

    def __init__(self, folder):
        self.ballast = folder / "ballast"

    def fill(self):
        with open(self.ballast, "wb", buffering=0) as file:
            for size in (2**16, 2**12, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError as error:
                    assert error.errno == errno.ENOSPC

    def free(self):
        self.ballast.unlink()


@pytest.fixture(
    params=[
        "ENOSPC",
        pytest.param("EROFS", marks=pytest.mark.slow),
        pytest.param("tmpfs", marks=pytest.mark.slow),
    ]
)
def disk(request, tmp_path, monkeypatch):
    """(folder on a disk, that disk): injected errors, and a real full file system."""
    if request.param != "tmpfs":
        yield (
            tmp_path,
            InjectedDisk(getattr(errno, request.param), patch=monkeypatch.setattr),
        )
        return
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    yield place, SmallDisk(place)
    subprocess.run(["umount", str(place)], check=True)


def test_a_run_survives_a_disk_that_is_full_for_a_while(
    toy_config, finished_run, disk, caplog, monkeypatch
):
    monkeypatch.setattr(saving, "RETRY_CHECKPOINT_S", 0.0)
    folder, small = disk
    # full from the 7th vector step to the 18th, over three checkpoints, an evaluation
    # and two points of TensorBoard
    actions = {BASE_CHUNKS + 7: small.fill, BASE_CHUNKS + 8 + 18: small.free}
    train(toy_config, folder / "run", make_env=acting_at(actions))
    for count in (10, 11, 15, 16):  # 16: tried again
        steps = count * VECTOR_STEP
        assert f"no checkpoint at {steps:,} control steps" in caplog.text
    if isinstance(small, InjectedDisk):  # a real one's last pages may take the curves
        assert "waits in memory" in caplog.text and "is complete again" in caplog.text
    assert_equal_runs(folder / "run", finished_run)


@pytest.mark.parametrize(
    "part", ["/run/resume", pytest.param("/run/checkpoints", marks=pytest.mark.slow)]
)
def test_a_checkpoint_that_fails_half_way_takes_nothing_from_the_next(
    toy_config, finished_run, tmp_path, monkeypatch, part
):
    """Its replay segment is on the disk already when the rest fails."""
    disk = InjectedDisk(errno.EIO, part, monkeypatch.setattr)
    actions = {BASE_CHUNKS + 7: disk.fill, BASE_CHUNKS + 8 + 14: disk.free}
    train(toy_config, tmp_path / "run", make_env=acting_at(actions))
    assert_equal_runs(tmp_path / "run", finished_run)
    last = toy_config.total_env_steps
    assert find_saved([tmp_path / "run"], [toy_config])[0].env_steps == last


@pytest.mark.slow
def test_a_disk_that_stays_full_ends_the_run_with_one_line_and_its_last_checkpoint(
    toy_config, finished_run, disk
):
    folder, small = disk
    with pytest.raises(UserError) as caught:
        actions = {BASE_CHUNKS + 8 + 17: small.fill}
        train(toy_config, folder / "run", make_env=acting_at(actions))
    assert "what was saved before is kept; free space" in str(caught.value)
    assert "\n" not in str(caught.value)
    small.free()
    assert find_saved([folder / "run"], [toy_config])[0].env_steps == 15 * VECTOR_STEP
    train(toy_config, folder / "run", make_env=ReachEnv, resume=True)
    assert_equal_runs(folder / "run", finished_run)


def test_a_file_that_grows_keeps_every_byte_of_a_disk_that_takes_parts(
    tmp_path, monkeypatch, caplog
):
    original, room = os.pwrite, 5

    def stingy(descriptor, content, offset):
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = min(room, len(content))
        room -= count
        return original(descriptor, bytes(content[:count]), offset)

    monkeypatch.setattr(os, "pwrite", stingy)
    file = AppendFile(tmp_path / "grows")
    file.append(b"abc")
    file.append(b"defg")
    with pytest.raises(OSError, match="No space"):
        file.flush()
    assert (tmp_path / "grows").read_bytes() == b"abcde"
    room = 100
    file.append(b"hi")
    assert file.flush() == 9
    assert (tmp_path / "grows").read_bytes() == b"abcdefghi"
    room = 0
    file.append(b"lost")
    file.close()
    assert "lacks 4 bytes" in caplog.text


def test_a_read_only_folder_is_refused(toy_config, finished_run, tmp_path):
    """Tests run as root, whom permissions do not bind: a read-only mount does."""
    place = shutil.copytree(finished_run, tmp_path / "run")
    bind = ["mount", "--bind", str(place), str(place)]
    done = subprocess.run(bind, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    try:
        subprocess.run(
            ["mount", "-o", "remount,ro,bind", str(place), str(place)], check=True
        )
        with pytest.raises(UserError, match=r"cannot write to .*Read-only"):
            train(toy_config, place / "new", make_env=ReachEnv)
        with pytest.raises(UserError, match=r"cannot write to .*Read-only"):
            train(toy_config, place, make_env=ReachEnv, resume=True)
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_link_in_a_run_folder_is_not_followed(tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("kept")
    for opened in (FolderLock, lambda folder: AppendFile(folder / "eval.csv")):
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for name in (LOCK_FILE, "eval.csv"):
            (folder / name).symlink_to(mine)
        with pytest.raises(OSError, match="symbolic links"):
            opened(folder)
    assert mine.read_text() == "kept"


def broken_learner(monkeypatch, at_call: int):
    """Makes one weight of one critic NaN after a training call."""
    original, calls = setup.compile_programs, 0

    def compile_programs(*arguments):
        programs = original(*arguments)

        def update(*inputs):
            nonlocal calls
            calls += 1
            learner, metrics = programs.update(*inputs)
            if calls == at_call:
                leaves, tree = jax.tree.flatten(learner.critic.params)
                leaves[0] = leaves[0].at[(0,) * leaves[0].ndim].set(np.nan)
                critic = learner.critic._replace(
                    params=jax.tree.unflatten(tree, leaves)
                )
                learner = learner._replace(critic=critic)
            return learner, metrics

        return programs._replace(update=update)

    monkeypatch.setattr(setup, "compile_programs", compile_programs)


def test_nan_in_a_critic_stops_the_run_before_it_is_saved(
    toy_config, finished_run, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        broken_learner(patch, at_call=5)  # vector step 15, of a checkpoint
        with pytest.raises(UserError, match="critics hold values that are not finite"):
            train(toy_config, tmp_path / "run", make_env=ReachEnv)
    train(toy_config, tmp_path / "run", make_env=ReachEnv, resume=True)
    assert_equal_runs(tmp_path / "run", finished_run)


@pytest.mark.slow
def test_nan_in_a_critic_is_diagnosed_at_the_next_decision(
    toy_config, finished_run, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        broken_learner(patch, at_call=3)
        with pytest.raises(UserError, match="actions are not finite at 104 control"):
            train(toy_config, tmp_path / "run", make_env=ReachEnv)
    assert load_agent(tmp_path / "run").env_steps == 11 * VECTOR_STEP
    train(toy_config, tmp_path / "run", make_env=ReachEnv, resume=True)
    assert_equal_runs(tmp_path / "run", finished_run)


@pytest.mark.slow
def test_a_loss_that_overflows_is_diagnosed(toy_policy, tmp_path):
    """Rewards of 1e30 overflow the squared error in float32."""

    class Huge(ReachEnv):
        def step(self, indices, actions):
            result = super().step(indices, actions)
            return result._replace(reward=result.reward + np.float32(1e30))

    changes = MANY_CHECKPOINTS | {"target_clip": 0.0}
    with pytest.raises(UserError) as caught:
        train(tiny(toy_policy, **changes), tmp_path / "run", make_env=Huge)
    text = str(caught.value)
    assert "not finite since 88 control steps: train/critic_" in text  # the first call
    assert "the last checkpoint is kept" in text and "\n" not in text


def test_nan_from_an_environment_is_named_and_never_stored(
    toy_config, finished_run, tmp_path
):
    broken_at = BASE_CHUNKS + 8 + 22
    steps = 0

    class Broken(ReachEnv):
        def step(self, indices, actions):
            nonlocal steps
            steps += 1
            result = super().step(indices, actions)
            if steps == broken_at:
                result.obs[1, 2] = np.nan
            return result

    words = r"environment 1 returned .* not finite \(episode seed \d+, chunk 5\)"
    with pytest.raises(UserError, match=words):
        train(toy_config, tmp_path / "run", make_env=Broken)
    train(toy_config, tmp_path / "run", make_env=ReachEnv, resume=True)
    assert_equal_runs(tmp_path / "run", finished_run)


def test_episodes_with_broken_physics_are_counted_as_failed(toy_config, tmp_path):
    """As robosuite's environments report it: no reward, no success, and no end."""

    class Breaking(ReachEnv):
        def reset(self, indices, seeds):
            self.odd = getattr(self, "odd", np.zeros(self.num_envs, bool))
            self.odd[indices] = np.asarray(seeds) % 2 == 1
            return super().reset(indices, seeds)

        def step(self, indices, actions):
            result = super().step(indices, actions)
            broken = self.odd[indices]
            result.reward[broken], result.success[broken] = 0, False
            return result._replace(fault=broken)

    folder = tmp_path / "run"
    ((base, *_),) = train(toy_config, folder, make_env=Breaking).values()
    seeds = evaluation_seeds(toy_config.eval.seed, toy_config.eval.episodes)
    assert base.faults == np.sum(seeds % 2 == 1) > 0
    points = scalars(folder)
    assert points["eval_base/randn/faults"][0][1] == base.faults
    assert points["train/faults"][-1][1] > 0


def test_a_second_process_cannot_resume_it(toy_config, finished_run, tmp_path):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    with FolderLock(folder), pytest.raises(UserError, match="in use by process"):
        train(toy_config, folder, make_env=ReachEnv, resume=True)


@pytest.mark.slow
def test_a_clock_that_goes_backwards_changes_nothing(
    toy_config, finished_run, tmp_path, monkeypatch
):
    with pytest.raises(PowerCutError):
        train(toy_config, tmp_path / "run", make_env=breaking(BASE_CHUNKS + 8 + 17))
    clock = time.time() - 10**8
    monkeypatch.setattr(time, "time", lambda: clock)
    train(toy_config, tmp_path / "run", make_env=ReachEnv, resume=True)
    assert_equal_runs(tmp_path / "run", finished_run)
