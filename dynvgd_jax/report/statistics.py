"""The report's statistics: means over seeds, rliable's measures, differences, ranks.

Interquartile mean, probability of improvement and the stratified bootstrap are those of
Agarwal et al. 2021 ("Deep reinforcement learning at the edge of the statistical
precipice"). Their library `rliable` is not used: its release 1.2.0 does not import with
the newest versions of what it needs, and its bootstrap ignores the seed it is given.
All intervals are 95 % percentile bootstrap intervals of 10,000 resamples, each drawn
from the same seed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from dynvgd_jax.runs.report import episodes_interval, wilson

RESAMPLES = 10_000
_ENDS = (2.5, 97.5)


class Estimate(NamedTuple):
    """A number with its 95 % interval, NaN ends where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "–"
        if math.isnan(self.low):
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def success_of_run(outcomes: Sequence[int]) -> Estimate:
    """Returns one run's success with its Wilson interval over episodes."""
    return Estimate(float(np.mean(outcomes)), *wilson(sum(outcomes), len(outcomes)))


def mean_over_runs(values: Sequence[float]) -> Estimate:
    """Returns the mean with its bootstrap interval over runs; one run has none."""
    values = np.asarray(values, float)
    return _estimate(lambda drawn: drawn.mean(-1), [values])


def interquartile_mean(tasks: Sequence[Sequence[float]]) -> Estimate:
    """Returns the mean without the lowest and highest quarter of all tasks' runs.

    A quarter is rounded down, so that up to three scores give their plain mean. The
    bootstrap draws runs within each task; a single run in all of them has no interval.

    Args:
      tasks: scores of the runs of each task; of equally many runs it is rliable's IQM.
    """
    tasks = [np.asarray(task, float) for task in tasks]
    return _estimate(
        lambda *drawn: stats.trim_mean(np.concatenate(drawn, -1), 0.25, axis=-1), tasks
    )


def probability_of_improvement(
    ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]
) -> Estimate:
    """Returns how probably a run of ours beats one of theirs, the mean over tasks.

    Within a task it is the share of pairs in which ours scores higher, equal pairs
    counted half (Mann and Whitney's U over the number of pairs). The bootstrap draws
    runs of each side within each task.

    Args:
      ours: scores of the runs of each task.
      theirs: of the same tasks.

    Raises:
      ValueError: another number of tasks.
    """
    pairs = list(zip(ours, theirs, strict=True))

    def mean(*drawn):
        count = len(pairs)
        per_task = []
        for x, y in zip(drawn[:count], drawn[count:], strict=True):
            higher = x[..., :, None] > y[..., None, :]
            equal = x[..., :, None] == y[..., None, :]
            per_task.append((higher + 0.5 * equal).mean((-2, -1)))
        return np.mean(per_task, axis=0)

    both = [*(x for x, _ in pairs), *(y for _, y in pairs)]
    return _estimate(mean, [np.asarray(scores, float) for scores in both])


def difference_over_runs(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """Returns the difference of two means, with its interval over the runs of both."""
    return _estimate(
        lambda x, y: x.mean(-1) - y.mean(-1),
        [np.asarray(ours, float), np.asarray(theirs, float)],
    )


def difference_over_episodes(
    ours: Mapping[int, float], theirs: Mapping[int, float]
) -> Estimate | None:
    """Returns the mean difference on equal episodes; None where there are none.

    The interval is over episodes (`runs.report.episodes_interval`), runs as they are.

    Args:
      ours: success, the mean over runs, by the episode's seed.
      theirs: likewise.
    """
    both = sorted(ours.keys() & theirs.keys())
    if not both:
        return None
    return Estimate(*episodes_interval(np.array([ours[e] - theirs[e] for e in both])))


def mean_by_episode(runs: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Returns the mean over runs for each episode that all of them played."""
    common = set.intersection(*(set(run) for run in runs))
    return {e: float(np.mean([run[e] for run in runs])) for e in sorted(common)}


def first_reach(points: Mapping[int, float], threshold: float) -> int | None:
    """Returns the control steps of the first evaluation of at least `threshold`."""
    return next((s for s, rate in sorted(points.items()) if rate >= threshold), None)


def rank_correlation(series: Sequence[tuple[np.ndarray, np.ndarray]]) -> Estimate:
    """Returns Spearman's correlation of two series of each run, the mean over runs.

    Several runs have the bootstrap interval over runs. Neighbouring points of one run
    are alike, so that its own interval is that of the moving-block bootstrap (Kuensch
    1989) with blocks of the square root of the number of points.

    Args:
      series: `(x [n], y [n])` of each run. A run whose x or y is constant, or which has
        fewer than 8 points, has no correlation and is left out.

    Returns: NaN where no run has one.
    """
    usable = [(x, y) for x, y in series if len(x) >= 8 and np.ptp(x) and np.ptp(y)]
    if not usable:
        return Estimate(math.nan)
    each = [_spearman(x, y) for x, y in usable]
    if len(each) > 1:
        return mean_over_runs(each)
    return Estimate(each[0], *_block_interval(*usable[0]))


def _block_interval(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    count = len(x)
    length = math.ceil(math.sqrt(count))
    blocks = math.ceil(count / length)
    rng = np.random.default_rng(0)
    starts = rng.integers(count - length + 1, size=(RESAMPLES // 10, blocks))
    found = []
    for drawn in starts:
        index = (drawn[:, None] + np.arange(length)).ravel()[:count]
        if np.ptp(x[index]) and np.ptp(y[index]):
            found.append(_spearman(x[index], y[index]))
    low, high = np.percentile(found, _ENDS)
    return float(low), float(high)


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    ranks = stats.rankdata(x), stats.rankdata(y)
    return float(np.corrcoef(*ranks)[0, 1])


def _estimate(
    measure: Callable[..., np.ndarray], samples: Sequence[np.ndarray]
) -> Estimate:
    """`measure` of all samples, and its bootstrap that draws within each sample.

    `measure` maps arrays `[..., n_i]` to `[...]`. Samples of one value each have no
    interval: nothing of their spread is known.
    """
    value = float(measure(*samples))
    if all(len(sample) == 1 for sample in samples):
        return Estimate(value)
    rng = np.random.default_rng(0)
    drawn = [
        sample[rng.integers(len(sample), size=(RESAMPLES, len(sample)))]
        for sample in samples
    ]
    low, high = np.percentile(measure(*drawn), _ENDS)
    return Estimate(value, float(low), float(high))
