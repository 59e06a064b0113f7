"""The report of a task that is judged by its return."""

import csv

import numpy as np
import pytest

from dynvgd_jax.core.scores import normalised_score
from dynvgd_jax.core.types import EpisodeResult
from dynvgd_jax.report.build import build_report
from dynvgd_jax.report.grouping import group
from dynvgd_jax.report.reading import find_runs
from dynvgd_jax.runs.intervals import episodes_interval
from dynvgd_jax.runs.metrics import MetricsLog
from tests.report.made_runs import make_config

RETURNS = {"base/randn": 900.0, "base/tanh_randn": 950.0, "dynvgd/tanh_randn": 1800.0}


def make_run(folder, task, seed):
    config = make_config(task=task, seed=seed, reward_offset=0.0)
    with MetricsLog(folder, config) as log:
        for policy, mean in RETURNS.items():
            results = [
                EpisodeResult(100 + i, False, False, mean + 40 * i + seed, 500, False)
                for i in range(10)
            ]
            steps = 0 if policy.startswith("base") else 2000
            log.episodes(steps, policy, results)
            log.scalars(steps, {"eval/success_rate": 0.0})


def rows(report, name):
    with open(report / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_scores_with_intervals(tmp_path):
    make_run(tmp_path / "runs/one", "hopper", 0)
    build_report([tmp_path / "runs"], tmp_path / "report")
    found = {row["setting"]: row for row in rows(tmp_path / "report", "evaluations")}
    returns = RETURNS["dynvgd/tanh_randn"] + 40 * np.arange(10)
    own = normalised_score("hopper", returns) / 100
    expected = episodes_interval(own)
    row = found["dynvgd"]
    names = [n for n in row if n.startswith("normalised score / 100")]
    assert [float(row[n]) for n in names] == pytest.approx(expected, abs=1e-6)
    assert float(row["return"]) == pytest.approx(1980)
    page = (tmp_path / "report/index.html").read_text()
    assert "Normalised score / 100 at 2,000 control steps" in page
    assert "success (whole chunk)" not in page


def test_without_a_reference_it_is_the_return(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / f"runs/{seed}", "gym:Pendulum-v1", seed)
    found = find_runs([tmp_path / "runs"])
    (panel,), _ = group(found.runs)
    assert panel.measure == "episode return"
    assert panel.settings[0].rates_at(2000) == [1980.0, 1981.0]
    build_report([tmp_path / "runs"], tmp_path / "report")
    (row,) = (
        r for r in rows(tmp_path / "report", "evaluations") if r["setting"] == "dynvgd"
    )
    assert float(row["episode return low"]) > 1  # not clipped to rates
