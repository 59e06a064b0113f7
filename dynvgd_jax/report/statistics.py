"""The report's statistics: means over seeds, rliable's measures, differences, ranks.

Interquartile mean, probability of improvement and the stratified bootstrap are those of
Agarwal et al. 2021 ("Deep reinforcement learning at the edge of the statistical
precipice"). Their library `rliable` is not used: its release 1.2.0 does not import with
the newest versions of what it needs, and its bootstrap ignores the seed it is given.
All intervals are 95 %, and those that are drawn are drawn from one seed:

  success of one run        Wilson's, over episodes; of its return BCa bootstrap
  means and differences     over runs, Student's t (of a difference Welch's) of fewer
                            than 5 runs, else percentile bootstrap, 10,000 resamples
  interquartile means,      percentile bootstrap, 10,000 resamples; of up to three runs
  improvement               of one task the interquartile mean is their mean
  differences on equal      BCa bootstrap over episodes, 9,999 resamples
  episodes
  correlation in one run    moving blocks, 1,000 resamples

The bootstrap of n runs has no mean beyond the least and the greatest run: of 2 to 4
runs its interval holds the true mean far less often than 95 % say.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from dynvgd_jax.runs.intervals import episodes_interval, t_interval, wilson

RESAMPLES = 10_000
_FEW = 5  # fewer runs have the interval of Student's t
_ENDS = (2.5, 97.5)
# What values can be: rates such as success, or anything, as returns.
Bounds = tuple[float, float]
RATES: Bounds = (0.0, 1.0)
ANY: Bounds = (-math.inf, math.inf)


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


def success_of_run(outcomes: Sequence[float], within: Bounds = RATES) -> Estimate:
    """Returns one run's success with its Wilson interval over episodes.

    Of what is no success, `within` other bounds, the bootstrap's interval.
    """
    if within != RATES:
        return Estimate(*episodes_interval(np.asarray(outcomes, float)))
    count = int(sum(outcomes))
    return Estimate(float(np.mean(outcomes)), *wilson(count, len(outcomes)))


def mean_over_runs(values: Sequence[float], within: Bounds = RATES) -> Estimate:
    """Returns the mean of values in `within` with its interval over runs.

    It is that of Student's t for 2 to 4 runs, the bootstrap's for more, none for one.
    """
    values = np.asarray(values, float)
    if 1 < len(values) < _FEW:
        return Estimate(
            float(values.mean()), *map(float, t_interval(values.tolist(), within))
        )
    return _estimate(lambda drawn: drawn.mean(-1), [values])


def interquartile_mean(
    tasks: Sequence[Sequence[float]], within: Bounds = RATES
) -> Estimate:
    """Returns the mean without the lowest and highest quarter of all tasks' runs.

    A quarter is rounded down, so that up to three scores give their plain mean, and of
    one task the interval of `mean_over_runs`. Else the bootstrap draws runs within each
    task; a single run in all of them has no interval.

    Args:
      tasks: scores of the runs of each task; of equally many runs it is rliable's IQM.
      within: what scores can be.
    """
    tasks = [np.asarray(task, float) for task in tasks]
    if len(tasks) == 1 and len(tasks[0]) < 4:  # nothing is dropped
        return mean_over_runs(tasks[0], within)
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


def difference_over_runs(
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    theirs_trained: bool = True,
    within: Bounds = RATES,
) -> Estimate:
    """Returns the difference of two mean rates, with its interval over runs.

    A side with one trained run says nothing of its spread: there is no interval. With
    fewer than 5 on a side it is Welch's (1947) t interval within [-1, 1], else the
    bootstrap's, which draws the runs of each side.

    Args:
      ours: success of each run.
      theirs: likewise; of the base policy its one success.
      theirs_trained: False for the base policy, of which nothing is trained: the
        interval is over our runs alone.
      within: what the values of a run can be.
    """
    ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
    value = float(ours.mean() - theirs.mean())
    if not theirs_trained:
        own = mean_over_runs(ours, within)
        return Estimate(value, *(end - float(theirs.mean()) for end in own[1:]))
    if min(len(ours), len(theirs)) == 1:
        return Estimate(value)
    if min(len(ours), len(theirs)) >= _FEW:
        return _estimate(lambda x, y: x.mean(-1) - y.mean(-1), [ours, theirs])
    if np.ptp(ours) == 0 == np.ptp(theirs):  # which has no degrees of freedom
        return Estimate(value, value, value)
    found = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    most = within[1] - within[0]
    return Estimate(value, max(-most, float(found.low)), min(most, float(found.high)))


def difference_over_episodes(
    ours: Mapping[int, float], theirs: Mapping[int, float]
) -> Estimate | None:
    """Returns the mean difference on equal episodes; None where there are none.

    The interval is over episodes (`episodes_interval`), runs as they are.

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

    Several runs have the interval of `mean_over_runs`, of a correlation in [-1, 1] put
    into [0, 1] and back. Neighbouring points of one run
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
        found = mean_over_runs([(1 + r) / 2 for r in each])
        return Estimate(*(2 * x - 1 for x in found))
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
