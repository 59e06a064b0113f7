"""The comparison of guidance settings evaluates exactly what a run evaluated."""

import csv
import json
import shutil

import numpy as np
import pytest

from benchmarks import guidance
from dynvgd_jax.errors import UserError
from dynvgd_jax.runs.metrics import EPISODES_FILE
from tests.reach import ReachEnv


def compare(*arguments):
    def make_env(config, policy, num_envs):
        return ReachEnv(num_envs)

    return guidance.main(list(map(str, arguments)), make_env)


def test_as_trained_repeats_the_last_evaluation(finished_run, toy_config, capsys):
    with open(finished_run / EPISODES_FILE, newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["policy"].startswith("dynvgd/")]
    last = [r for r in rows if r["control_steps"] == rows[-1]["control_steps"]]
    expected = [r["success_chunk"] == "1" for r in last]
    episodes = toy_config.eval.episodes
    assert len(expected) == episodes

    variant = ["--variant", "guidance.scale=0", "guidance.candidates=2"]
    sizes = [f"--episodes={episodes}", f"--num_envs={toy_config.eval.num_envs}"]
    found = compare(finished_run, finished_run, *variant, *sizes)
    label = "guidance.scale=0 guidance.candidates=2"
    assert list(found) == ["as trained", label]
    for wins in found["as trained"]:
        np.testing.assert_array_equal(wins, expected)
    assert "candidate_gain" in capsys.readouterr().out


def test_mistakes_are_named(finished_run):
    with pytest.raises(UserError, match="found 'scale', expected field=value"):
        compare(finished_run, "--variant", "scale")
    with pytest.raises(UserError, match=r"guidance\.scal: no such field"):
        compare(finished_run, "--variant", "guidance.scal=0")


def test_runs_of_several_tasks_are_refused(finished_run, tmp_path):
    other = shutil.copytree(finished_run, tmp_path / "other")
    content = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(content | {"task": "square"}))
    with pytest.raises(UserError, match="other: square; expected runs of one task"):
        compare(finished_run, other)


def test_interval_of_equal_and_of_mixed_outcomes():
    assert guidance.interval(np.ones(5)) == "1.000"
    text = guidance.interval(np.repeat([0.0, 1.0], 100))
    mean, low, high = (float(x.strip("[,]")) for x in text.split())
    # Normal approximation: 0.5 +- 1.96 sqrt(0.25 / 200).
    assert mean == 0.5 and abs(low - 0.431) < 0.01 and abs(high - 0.569) < 0.01
