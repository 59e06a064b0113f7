"""The picture of runs: what is read from their folders, and that it is drawn."""

import csv
import shutil

import numpy as np
import pytest

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.runs.metrics import EPISODES_FILE
from examples import plot_runs


@pytest.fixture
def two_seeds(finished_run, tmp_path):
    """A run's folder with two seeds, of which the second has always failed."""
    for name in ("seed0", "seed1"):
        shutil.copytree(finished_run, tmp_path / "both" / name)
    path = tmp_path / "both/seed1" / EPISODES_FILE
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows([row | {"success_chunk": 0} for row in rows])
    return tmp_path / "both"


def test_finds_seeds_and_their_evaluations(two_seeds, toy_config):
    run = plot_runs.find_run(two_seeds, None)
    assert run.label == "both (2 seeds)"
    assert [folder.name for folder in run.folders] == ["seed0", "seed1"]
    first, second = map(plot_runs.evaluations, run.folders)
    name = f"dynvgd/{toy_config.acting_noise}"
    assert max(first[name]) == toy_config.total_env_steps
    for outcomes in second[name].values():
        assert list(outcomes.values()) == [0] * toy_config.eval.episodes


def point(*outcomes):
    return plot_runs.make_point("p", 1, [dict(zip("abcd", own)) for own in outcomes])


def test_points_and_differences_by_hand():
    one = point([1, 1, 0, 0])
    assert one.mean == 0.5 and 0.1 < one.low < 0.2 and 0.8 < one.high < 0.9  # Wilson
    # The base policy is the same whatever the seed of training.
    assert point([1, 1, 0, 0], [1, 1, 0, 0])[2:5] == one[2:5]
    # 0.5 and 0.75: mean 0.625, standard error 0.125, t(1) = 12.7, cut to [0, 1].
    two = point([1, 0, 1, 0], [1, 1, 1, 0])
    assert (two.mean, two.low, two.high, two.each) == (0.625, 0, 1, [0.5, 0.75])
    # Episode by episode 0, -0.5, 1, 0, whatever order they were played in.
    assert plot_runs.difference(two, one).startswith("0.125 [")
    other = one._replace(by_episode=dict(reversed(one.by_episode.items())))
    assert plot_runs.difference(two, other) == plot_runs.difference(two, one)
    assert plot_runs.difference(one, one) == "0.000"
    assert plot_runs.difference(one, one._replace(by_episode={"x": 1.0})) == ""


def test_curves_are_those_of_all_seeds(two_seeds):
    run = plot_runs.find_run(two_seeds, "name")
    events = [plot_runs.read_events(folder) for folder in run.folders]
    steps, values = plot_runs.curves(events, "train/td_error_mean")
    assert values.shape == (2, len(steps)) and (np.diff(steps) > 0).all()
    np.testing.assert_array_equal(values[0], values[1])
    assert plot_runs.curves(events, "train/no_such_curve") is None


def test_draws(two_seeds, finished_run, tmp_path, monkeypatch, capsys):
    target = tmp_path / "picture.png"
    folders = [str(two_seeds), str(finished_run)]
    labels = ["--labels", "two", "one"]
    monkeypatch.setattr(
        "sys.argv", ["plot_runs.py", *folders, *labels, f"--output={target}"]
    )
    plot_runs.main()
    assert target.read_bytes()[:4] == b"\x89PNG"
    text = capsys.readouterr().out
    assert str(target) in text and "beyond the first run" in text
    assert "two (2 seeds)" in text and "one (seed 0)" in text


def test_nothing_evaluated_yet(finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    (run / EPISODES_FILE).unlink()
    with pytest.raises(UserError, match=r"run holds no eval\.csv"):
        plot_runs.evaluations(run)


def test_no_run(tmp_path):
    with pytest.raises(UserError, match=r"config\.json"):
        plot_runs.find_run(tmp_path, None)
