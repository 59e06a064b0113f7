"""Runs as their folders hold them, whole, unfinished and damaged ones."""

import json
import shutil

import numpy as np
import pytest

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.report.events import Curve, binned, read_curves
from dynvgd_jax.report.reading import find_runs
from dynvgd_jax.runs import metrics
from dynvgd_jax.runs.metrics import EPISODES_FILE, MetricsLog
from dynvgd_jax.runs.settings import CONFIG_FILE, VERSIONS_FILE
from tests.report.made_runs import START_S, Clock, make_config, make_run


def only(path):
    found = find_runs([path])
    assert len(found.runs) == 1
    return found.runs[0], found.notes


def test_a_run_by_hand(tmp_path, monkeypatch):
    run, notes = only(make_run(tmp_path / "run", monkeypatch))
    assert notes == [] and run.is_finished and run.name == "run"
    assert list(run.steered) == [1000, 2000]
    assert [e.success for e in run.steered[1000].values()] == [1] * 5 + [0] * 5
    assert run.steered[2000][103].total == -297.0
    assert {n: len(own) for n, own in run.bases.items()} == {
        "base/tanh_randn": 10,
        "base/randn": 10,
    }
    # The clock of made runs: a thousand control steps a minute.
    assert run.minutes_at(2000) == pytest.approx(2) == pytest.approx(run.minutes)
    assert np.isnan(run.minutes_at(1500)) and run.control_steps == 2000
    assert run.config["guidance.scale"] == 0.005


def test_a_real_run(finished_run, toy_config):
    run, notes = only(finished_run)
    assert notes == [] and run.is_finished
    assert run.control_steps == toy_config.total_env_steps == max(run.steered)
    assert len(run.bases) == len(toy_config.eval.noises)
    assert run.versions["jax"] != "none" and run.minutes > 0
    assert {"guide/lambda_mean", "guide/weight_mean", "train/td_error_mean"} <= set(
        run.curves
    )


def test_pauses_do_not_count(tmp_path, monkeypatch):
    """One minute, then a night, then two minutes to the next point."""
    clock = Clock()
    monkeypatch.setattr(metrics, "time", clock)
    with MetricsLog(tmp_path / "run", make_config()) as log:
        clock.now = START_S + 60
        log.scalars(10, {"a": 1.0})
        sizes = log.sizes()
        clock.now = START_S + 90  # is cut off: the checkpoint came before
        log.scalars(15, {"a": 9.0})
    clock.now = START_S + 30_000
    with MetricsLog(
        tmp_path / "run", make_config(), sizes, metrics.FolderLock(tmp_path / "run")
    ) as log:
        clock.now += 120
        log.scalars(20, {"a": 2.0})
    curve = read_curves(tmp_path / "run")["a"]
    assert curve.steps.tolist() == [10, 20] and curve.values.tolist() == [1, 2]
    assert curve.minutes == pytest.approx([1, 3])
    # A record that was cut off is left out.
    newest = metrics.event_files(tmp_path / "run")[-1]
    newest.write_bytes(newest.read_bytes()[:-5])
    assert read_curves(tmp_path / "run")["a"].steps.tolist() == [10]


def test_curves_in_parts_by_hand():
    """Four parts of 25 control steps, and the last point has a part of its own."""
    one = Curve(np.array([10, 20, 100]), np.zeros(3), np.array([1.0, 3.0, 5.0]))
    two = Curve(np.array([30, 100]), np.zeros(2), np.array([7.0, 9.0]))
    steps, values = binned([one, two], bins=4)
    assert steps.tolist() == [15, 30, 100]
    np.testing.assert_array_equal(values, [[2, np.nan, 5], [np.nan, 7, 9]])


def test_finds_runs_at_any_depth_once(tmp_path, monkeypatch):
    make_run(tmp_path / "a/x/seed0", monkeypatch)
    make_run(tmp_path / "a/y/seed0", monkeypatch)
    inner = tmp_path / "a/x/seed0/checkpoints/1000"  # is the run's own
    inner.mkdir(parents=True)
    shutil.copy(tmp_path / "a/x/seed0" / CONFIG_FILE, inner)
    (tmp_path / "a/link").symlink_to(tmp_path / "a/x")
    found = find_runs([tmp_path / "a", tmp_path / "a/y"])
    assert [run.name for run in found.runs] == ["a/x/seed0", "a/y/seed0"]
    # Folders of equal names are told apart.
    make_run(tmp_path / "b/x/seed0", monkeypatch)
    found = find_runs([tmp_path / "a/x", tmp_path / "b/x"])
    assert [run.name for run in found.runs] == [
        str(tmp_path / "a/x/seed0"),
        str(tmp_path / "b/x/seed0"),
    ]


def test_evaluations_by_themselves_are_no_runs(tmp_path, monkeypatch):
    """As `dynvgd_jax.evaluate` leaves them: inside their run, or beside the others."""
    run = make_run(tmp_path / "runs/a", monkeypatch)
    inner, beside = run / "evaluations/2000-seed1", tmp_path / "runs/evaluation-p-seed1"
    for folder in (inner, beside):
        folder.mkdir(parents=True)
        for name in (CONFIG_FILE, VERSIONS_FILE, EPISODES_FILE):
            shutil.copy(run / name, folder)
    found = find_runs([tmp_path / "runs"])
    assert [own.name for own in found.runs] == ["runs/a"]
    (note,) = found.notes
    assert note.startswith("left out: runs/evaluation-p-seed1 is an evaluation by")
    with pytest.raises(UserError, match="2000-seed1 is an evaluation by itself"):
        find_runs([inner])
    # A folder of runs may have that name.
    make_run(tmp_path / "evaluations/b", monkeypatch)
    assert len(find_runs([tmp_path]).runs) == 2


def test_says_what_is_missing(tmp_path, monkeypatch):
    folder = make_run(tmp_path / "run", monkeypatch, evaluations=((1000, 5),))
    (folder / VERSIONS_FILE).unlink()
    with open(folder / EPISODES_FILE, "a") as file:
        file.write("2000,dynvgd/tanh_randn,100,1,1,-3.0,300\n2000,dynvgd/tanh")
    run, notes = only(folder)
    assert list(run.steered) == [1000] and not run.is_finished
    for words in (
        "run has no versions.json",
        f"run: {EPISODES_FILE} line 33 is incomplete",
        "left out dynvgd/tanh_randn at 2,000 control steps, which has 1 of 10 episodes",
        "run is unfinished: 1,000 of 2,000 control steps",
    ):
        assert sum(words in note for note in notes) == 1, (words, notes)
    (folder / EPISODES_FILE).unlink()
    for path in metrics.event_files(folder):
        path.unlink()
    run, notes = only(folder)
    assert run.evaluations == {} and run.control_steps == 0 and run.minutes == 0
    assert any("nothing is evaluated yet" in note for note in notes)
    assert any("no TensorBoard curves" in note for note in notes)


def test_evaluations_before_more_episodes_were_asked_for(tmp_path, monkeypatch):
    """Ten episodes, then twelve since a resumption; the last was cut off at seven."""
    folder = make_run(tmp_path / "run", monkeypatch, evaluations=((1000, 5),))
    path = folder / CONFIG_FILE
    config = json.loads(path.read_text())
    config["eval"]["episodes"] = 12
    path.write_text(json.dumps(config))
    with open(folder / EPISODES_FILE, "a") as file:
        for steps, count in ((1500, 12), (2000, 7)):
            for seed in range(100, 100 + count):
                file.write(f"{steps},dynvgd/tanh_randn,{seed},1,1,-3.0,300\n")
    run, notes = only(folder)
    assert {s: len(own) for s, own in run.steered.items()} == {1000: 10, 1500: 12}
    assert set(run.bases) == {"base/randn", "base/tanh_randn"}
    assert notes[:2] == [
        "run: left out dynvgd/tanh_randn at 2,000 control steps, which has 7 of 12 "
        "episodes",
        "run: 3 evaluations have 10 episodes, as many as eval.episodes said before it "
        "became 12: base/tanh_randn at 0, base/randn at 0, dynvgd/tanh_randn at 1,000",
    ]


def test_runs_of_another_version_are_a_line_each(tmp_path, monkeypatch):
    for name in ("good", "older", "fields", "columns", "job"):
        make_run(tmp_path / name, monkeypatch)
    path = tmp_path / "older" / VERSIONS_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dynvgd_jax": "0.0.3"}))
    path = tmp_path / "fields" / CONFIG_FILE
    config = json.loads(path.read_text())
    del config["acting_noise"], config["eval"]["seed"]
    path.write_text(json.dumps(config))
    path = tmp_path / "columns" / EPISODES_FILE
    path.write_text("step,success\n1,1\n")
    path = tmp_path / "job" / CONFIG_FILE
    path.write_text(json.dumps({"job": "pretrain"}))
    found = find_runs([tmp_path])
    assert [run.folder.name for run in found.runs] == ["good", "older"]
    place = tmp_path.name
    text = "\n".join(found.notes)
    assert (
        f"{place}/older is a run of another version: made by dynvgd_jax 0.0.3" in text
    )
    assert (
        f"left out: {place}/fields is a run of another version: its config.json has no "
        "acting_noise, eval.seed" in text
    )
    assert (
        f"left out: {place}/columns is a run of another version: its eval.csv" in text
    )
    assert f"left out: {place}/job is no training run (job 'pretrain')" in text
    assert len(found.notes) == 4
    with pytest.raises(UserError, match=r"columns is a run of another version"):
        find_runs([tmp_path / "columns"])


@pytest.mark.parametrize("end", [b"\xff\xfe", b"2000,x" + b"7" * 200_000])
def test_damaged_episodes_are_a_line(tmp_path, monkeypatch, end):
    """Neither text nor, for the second, anything that the CSV reader takes."""
    make_run(tmp_path / "good", monkeypatch)
    path = make_run(tmp_path / "bad", monkeypatch, seed=1) / EPISODES_FILE
    path.write_bytes(path.read_bytes() + end)
    found = find_runs([tmp_path])
    assert [run.folder.name for run in found.runs] == ["good"]
    (note,) = found.notes
    assert f"left out: {tmp_path.name}/bad: its eval.csv is damaged: " in note


def test_episodes_that_a_power_cut_left_as_nul_bytes(tmp_path, monkeypatch):
    folder = make_run(tmp_path / "run", monkeypatch)
    with open(folder / EPISODES_FILE, "ab") as file:
        file.write(bytes(50))
    run, notes = only(folder)
    assert list(run.steered) == [1000, 2000]
    assert notes == ["run: eval.csv line 42 is incomplete"]


def test_no_run_folder(tmp_path):
    with pytest.raises(UserError, match=r"nowhere is no run folder: there is no such"):
        find_runs([tmp_path / "nowhere"])
    with pytest.raises(
        UserError, match=r"holds no run: no config\.json in it or below"
    ):
        find_runs([tmp_path])
    (tmp_path / CONFIG_FILE).write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        find_runs([tmp_path])
