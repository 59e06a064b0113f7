"""A run that was broken off and resumed equals one that was not, bit for bit."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.runs.lock import LOCK_FILE
from dynvgd_jax.runs.settings import read_config, write_config
from dynvgd_jax.training.loop import train
from dynvgd_jax.training.resume import compare_configs, is_finished
from tests.support.reach import PowerCutError, ReachEnv, breaking
from tests.support.same_run import assert_equal_runs, notes_of
from tests.support.tiny_run import VECTOR_STEP

pytestmark = pytest.mark.usefixtures("shared_programs")


# Chunks: 16 of the base evaluations, 24 of training, 8 of each of two evaluations.
def test_a_run_broken_in_its_evaluation_goes_on_bit_for_bit(
    toy_config, finished_run, tmp_path
):
    with pytest.raises(PowerCutError):
        train(toy_config, tmp_path / "run", make_env=breaking(16 + 8 + 24 + 3))
    train(toy_config, tmp_path / "run", make_env=ReachEnv, resume=True)
    assert_equal_runs(tmp_path / "run", finished_run)


def test_a_run_is_finished_where_all_is_done_that_its_configuration_says(
    toy_config, finished_run, tmp_path
):
    assert is_finished(finished_run)
    # all is trained, the last evaluation is missing
    with pytest.raises(PowerCutError):
        train(toy_config, tmp_path / "run", make_env=breaking(16 + 8 + 24 + 3))
    assert not is_finished(tmp_path / "run")
    shutil.copytree(finished_run, tmp_path / "longer")
    config = read_config(finished_run).unlock()
    config.total_env_steps *= 2
    write_config(tmp_path / "longer", config)
    assert not is_finished(tmp_path / "longer")


def test_a_run_that_breaks_again_with_a_damaged_checkpoint_goes_on_bit_for_bit(
    toy_config, finished_run, tmp_path, caplog
):
    with pytest.raises(PowerCutError):
        train(toy_config, tmp_path / "run", make_env=breaking(16 + 8 + 22))
    newest = tmp_path / "run" / "checkpoints" / str(20 * VECTOR_STEP)
    damaged = next(p for p in newest.rglob("*") if p.is_file() and p.stat().st_size)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(PowerCutError):
        train(toy_config, tmp_path / "run", make_env=breaking(2), resume=True)
    assert f"checkpoint {20 * VECTOR_STEP} cannot be used" in caplog.text
    train(toy_config, tmp_path / "run", make_env=ReachEnv, resume=True)
    assert_equal_runs(tmp_path / "run", finished_run)


def test_a_damaged_replay_segment_is_named(toy_config, finished_run, tmp_path, caplog):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    segment = folder / "replay" / "22-30.npy"
    segment.write_bytes(segment.read_bytes()[:-4] + b"oops")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match="no sound checkpoint"):
        train(toy_config, folder, make_env=ReachEnv, resume=True)
    assert "22-30.npy is damaged" in caplog.text
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_longer_budget_goes_on_another_task_does_not(finished_run):
    config = read_config(finished_run).copy_and_resolve_references().unlock()
    config.total_env_steps *= 2
    steps = 24 * VECTOR_STEP
    changes = [f"config.total_env_steps: {steps} -> {2 * steps}"]
    assert compare_configs(finished_run, config) == changes
    config.critic.width = 32
    with pytest.raises(UserError, match=r"config.critic.width: 16 -> 32; give the old"):
        compare_configs(finished_run, config)


def test_nothing_to_resume(toy_config, tmp_path):
    with pytest.raises(UserError, match="no run folder"):
        train(toy_config, tmp_path / "none", make_env=ReachEnv, resume=True)
    (tmp_path / "eval.csv").write_text("much,else\n" * 10)
    with pytest.raises(UserError, match=r"holds no config\.json"):
        train(toy_config, tmp_path, make_env=ReachEnv, resume=True)


def test_a_run_broken_in_its_first_evaluation_keeps_what_it_has(
    toy_config, finished_run, tmp_path
):
    with pytest.raises(PowerCutError):  # while the base policy is evaluated again
        train(toy_config, tmp_path / "run", make_env=breaking(8 + 3))
    assert (tmp_path / "run" / "eval.csv").read_text().count("base/") == 3
    chunks = 8 + 24 + 2 * 8
    train(toy_config, tmp_path / "run", make_env=breaking(chunks), resume=True)
    assert_equal_runs(tmp_path / "run", finished_run)


@pytest.mark.parametrize(
    "left",
    [("config.json", "policy"), pytest.param((".lock",), marks=pytest.mark.slow)],
)
def test_a_run_without_any_checkpoint_begins_anew(
    toy_config, finished_run, tmp_path, left
):
    """Died while it was setting up its folder."""
    for name in left:
        copy = shutil.copytree if (finished_run / name).is_dir() else shutil.copy
        copy(finished_run / name, tmp_path / name)
    (tmp_path / "events.out.tfevents.1.x").write_bytes(b"torn")
    (tmp_path / "eval.csv").write_text("control_st")
    train(toy_config, tmp_path, make_env=ReachEnv, resume=True)
    assert_equal_runs(tmp_path, finished_run)


def test_a_finished_run_stays_as_it_is_and_a_longer_one_drops_old_segments(
    toy_config, finished_run, tmp_path
):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    train(toy_config, folder, make_env=ReachEnv, resume=True)
    assert_equal_runs(folder, finished_run)
    longer = read_config(finished_run).copy_and_resolve_references().unlock()
    longer.total_env_steps = 40 * VECTOR_STEP
    train(longer.lock(), folder, make_env=ReachEnv, resume=True)
    newest = sorted(int(p.name) for p in (folder / "checkpoints").iterdir())
    assert newest == [35 * VECTOR_STEP, 40 * VECTOR_STEP]
    segments = [s["name"] for n in newest for s in notes_of(folder, n)["segments"]]
    files = {path.name for path in (folder / "replay").iterdir()}
    assert files == set(segments) and "0-10.npy" not in files


def test_a_run_of_an_older_version_is_refused_untouched(
    toy_config, finished_run, tmp_path
):
    """Its transitions were float32 columns; that version can still go on with it."""
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    for notes_file in (folder / "resume").glob("*.json"):
        notes = json.loads(json.loads(notes_file.read_text())["notes"])
        for segment in notes["segments"]:
            path = folder / "replay" / segment["name"]
            np.save(path, np.zeros((segment["rows"], 18), np.float32))
            segment["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        text = json.dumps(notes)
        digest = hashlib.sha256(text.encode()).hexdigest()
        notes_file.write_text(json.dumps({"sha256": digest, "notes": text}))
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    longer = toy_config.copy_and_resolve_references().unlock()
    longer.total_env_steps += 2 * VECTOR_STEP
    with pytest.raises(
        UserError, match="older version of this program, commit 9b190e2"
    ):
        train(longer.lock(), folder, make_env=ReachEnv, resume=True)
    after = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    del before[folder / LOCK_FILE], after[folder / LOCK_FILE]
    assert after == before


def test_a_run_past_its_budget_is_refused(toy_config, finished_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    shorter = toy_config.copy_and_resolve_references().unlock()
    shorter.total_env_steps -= 2 * VECTOR_STEP
    before = (folder / "config.json").read_bytes()
    with pytest.raises(UserError, match="found 176, but the run is at 192"):
        train(shorter.lock(), folder, make_env=ReachEnv, resume=True)
    assert (folder / "config.json").read_bytes() == before
