"""Intervals, a line on an evaluation, the final tables."""

import io
import math

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from dynvgd_jax.core.types import EpisodeResult
from dynvgd_jax.runs import intervals
from dynvgd_jax.runs.intervals import episodes_interval, wilson
from dynvgd_jax.runs.report import (
    episodes_text,
    evaluation_line,
    mean_text,
    print_results,
    print_seed_means,
    success_text,
)
from dynvgd_jax.runs.summary import Summary, measures, shown, summarise
from dynvgd_jax.runs.terminal import Progress


def test_wilson_by_hand():
    # n = 10, x = 5, z^2 = 3.8415: half = sqrt(0.025 + 0.0096) z / 1.38415 = 0.2634
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    # x = 0: upper end z^2 / (n + z^2) = 3.8415 / 103.8415
    assert wilson(0, 100) == pytest.approx((0.0, 0.036993), abs=1e-6)
    assert wilson(100, 100) == pytest.approx((1 - 0.036993, 1.0), abs=1e-6)
    assert wilson(0, 0) == (0.0, 1.0)
    for bad in [(-1, 5), (6, 5)]:
        with pytest.raises(ValueError, match="successes"):
            wilson(*bad)


@pytest.mark.parametrize(("x", "n"), [(1, 7), (81, 200), (199, 200)])
def test_wilson_ends_solve_the_score_equation(x, n):
    for p in wilson(x, n):
        assert abs(x / n - p) == pytest.approx(
            1.959963984540054 * math.sqrt(p * (1 - p) / n)
        )


def episodes(successes, n, fault=False):
    return [
        EpisodeResult(i, True, i < successes, -300.0 + i, 300, fault and i == n - 1)
        for i in range(n)
    ]


def test_summary_and_table():
    base = summarise(0, "base/randn", episodes(81, 200))
    steered = summarise(48_000, "dynvgd/tanh_randn", episodes(150, 200, fault=True))
    assert (base.success_chunk, base.success_any, base.faults) == (81, 200, 0)
    assert base.mean_return == pytest.approx(-300 + np.arange(200).mean())
    assert success_text(81, 200) == "0.405 [0.339, 0.474]"
    file = io.StringIO()
    print_results([base], Console(file=file))
    assert "faults" not in file.getvalue()
    print_results([base, steered], Console(file=file))
    text = file.getvalue()
    for word in ("0.405 [0.339, 0.474]", "48,000", "dynvgd/tanh_randn", "faults"):
        assert word in text
    assert math.isnan(summarise(0, "base/randn", []).mean_return)


def test_means_over_seeds_by_hand():
    """Standard error 0.1 / sqrt(3) = 0.0577; t(0.975, 2) = 4.303: +- 0.248."""
    assert mean_text([0.5, 0.6, 0.7]) == "0.600 [0.352, 0.848]"
    assert mean_text([0.0, 0.5, 1.0]) == "0.500 [0.000, 1.000]"
    summaries = {
        seed: [Summary(64, "vgd/randn", 10, wins, wins, -3.0 - seed, 20.0, 0)]
        for seed, wins in ((0, 5), (1, 6), (2, 7))
    }
    file = io.StringIO()
    print_seed_means(summaries, Console(file=file))
    text = file.getvalue()
    assert "mean of 3 seeds" in text and "0.600 [0.352, 0.848]" in text
    assert "0.500 to 0.700" in text and "-4.0" in text


def test_episodes_text_of_equal_and_of_mixed_outcomes():
    assert episodes_text(np.ones(5)) == "1.000"
    text = episodes_text(np.repeat([0.0, 1.0], 100))
    mean, low, high = (float(x.strip("[,]")) for x in text.split())
    # Normal approximation: 0.5 +- 1.96 sqrt(0.25 / 200).
    assert mean == 0.5 and abs(low - 0.431) < 0.01 and abs(high - 0.569) < 0.01


def test_a_finished_evaluation_in_one_line():
    base = summarise(0, "base/randn", episodes(81, 200))
    assert evaluation_line(base, 71.4) == (
        "evaluated at 0 control steps: base/randn: success 0.405 [0.339, 0.474] (any "
        "step 1.000 [0.981, 1.000]), return -200.5, 200 episodes, 71 s"
    )
    steered = summarise(48_000, "dynvgd/tanh_randn", episodes(2, 3, fault=True))
    line = evaluation_line(steered, 600, label="seed 3, ")
    assert "at 48,000 control steps: seed 3, dynvgd/tanh_randn: success 0.667" in line
    assert "3 episodes, 1 physics faults, 10 min" in line and "\n" not in line
    line = evaluation_line(base._replace(control_steps=500), 1, unit="gradient steps")
    assert line.startswith("evaluated at 500 gradient steps: base/randn: success")


def test_the_bootstrap_in_batches_draws_the_same(monkeypatch):
    values = np.random.default_rng(1).integers(-1, 2, 40).astype(float)
    whole = stats.bootstrap((values,), np.mean, rng=np.random.default_rng(0))
    monkeypatch.setattr(intervals, "_BOOTSTRAP_VALUES", 280)  # 7 resamples at once
    mean, *interval = episodes_interval(values)
    assert mean == values.mean() and interval == list(whole.confidence_interval)


def walks(returns, offset=0.0):
    """Episodes of 10 control steps each."""
    return [
        EpisodeResult(i, False, False, r - 10 * offset, 10, False)
        for i, r in enumerate(returns)
    ]


def printed(fn, *arguments):
    console = Console(file=io.StringIO(), width=140)
    fn(*arguments, console)
    return console.file.getvalue()


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_tasks_without_success_show_return_and_score(offset):
    """Whatever was subtracted from rewards is given back."""
    results = walks([1000.0, 1200.0, 1400.0, 2400.0], offset)
    options = {"task": "hopper", "reward_offset": offset}
    found = summarise(7, "vgd/randn", results, **options)
    mean, low, high = found.returns
    assert mean == pytest.approx(1500) and 1000 < low < 1500 < high < 2400
    own = np.array([1000.0, 1200.0, 1400.0, 2400.0])
    assert (low, high) == pytest.approx(episodes_interval(own)[1:])
    # (1500 + 20.272305) / 3254.572305
    assert found.scores[0] == pytest.approx(46.711898)
    line = evaluation_line(found, 5)
    assert "vgd/randn: return 1500.0 [" in line and "score 46.7 [" in line
    assert "success" not in line and "length 10" in line
    text = printed(print_results, [found])
    assert "1500.0 [" in text and "46.7 [" in text and "success" not in text.lower()
    assert measures("eval", found)["eval/return"] == pytest.approx(1500)
    assert measures("eval", found)["eval/normalized_score"] == found.scores[0]


def test_a_return_without_a_reference_has_no_score():
    found = summarise(0, "base/randn", walks([-5.0, -7.0]), task="gym:Pendulum-v1")
    assert found.scores is None and found.returns[0] == -6
    assert "score" not in evaluation_line(found, 5)
    assert "eval/normalized_score" not in measures("eval", found)


def test_seeds_of_tasks_without_success():
    # returns 1000 and 1200: t interval 1100 +- 12.7062 * 100
    each = {
        seed: [summarise(9, "vgd/randn", walks([mean] * 3), task="hopper")]
        for seed, mean in ((0, 1000.0), (1, 1200.0))
    }
    text = printed(print_seed_means, each)
    assert "Return, mean of 2 seeds" in text
    assert "1100.0 [-170.6, 2370.6]" in text and "1000.0 to 1200.0" in text
    assert "34.4" in text  # the mean of 31.349 and 37.494


def test_success_is_summed_up_as_before():
    found = summarise(0, "base/randn", walks([1.0]), task="can", reward_offset=1.0)
    assert found.returns is None and found.scores is None
    assert measures("eval", found) == {"eval/success_rate": 0.0}


def test_progress_shows_returns():
    judged = {"task": "hopper", "reward_offset": 1.0}
    progress = Progress(10, console=Console(file=io.StringIO()))
    progress.update(5, **shown(walks([100.0, 300.0], 1.0), **judged))
    assert "| return 200 |" in progress.line()
    judged["task"] = "can"
    progress.update(5, **shown(walks([100.0]), **judged))
    assert "| success 0.00 |" in progress.line()
