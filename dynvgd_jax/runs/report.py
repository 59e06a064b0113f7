"""What is said about evaluations: averages, intervals, a line each, tables."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from dynvgd_jax.core.types import EpisodeResult
from dynvgd_jax.runs.terminal import duration_text, print_table

# 97.5 % quantile of the normal distribution: two-sided 95 % intervals.
_Z95 = 1.959963984540054
# Values that the bootstrap draws at once, 8 bytes each.
_BOOTSTRAP_VALUES = 10_000_000


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Returns the 95 % Wilson score interval of a success rate, `(0, 1)` for n = 0.

    Wilson (1927): the rates p with `|successes/n - p| <= z sqrt(p (1 - p) / n)`.

    Raises:
      ValueError: not 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    if n == 0:
        return 0.0, 1.0
    z2 = _Z95**2
    rate = successes / n
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return low, high


class Summary(NamedTuple):
    """Averages of one evaluation."""

    control_steps: int  # of training before it, over all environments
    policy: str  # method and start noise, such as base/randn
    episodes: int
    success_chunk: int  # episodes with a whole successful chunk (published success)
    success_any: int  # episodes with any successful control step
    mean_return: float  # of sum (reward - reward_offset)
    mean_length: float  # control steps
    faults: int  # episodes whose physics broke, counted as failures


def summarise(
    control_steps: int, policy: str, results: Sequence[EpisodeResult]
) -> Summary:
    """Returns the averages of finished episodes (NaN means where there are none)."""
    n = len(results)
    return Summary(
        control_steps=control_steps,
        policy=policy,
        episodes=n,
        success_chunk=sum(bool(r.success_chunk) for r in results),
        success_any=sum(bool(r.success_any) for r in results),
        mean_return=sum(r.episode_return for r in results) / n if n else math.nan,
        mean_length=sum(r.length for r in results) / n if n else math.nan,
        faults=sum(bool(r.fault) for r in results),
    )


def evaluation_line(
    summary: Summary, seconds: float, label: str = "", unit: str = "control steps"
) -> str:
    """Returns one line on a finished evaluation.

    Args:
      summary: of the evaluation.
      seconds: that it took.
      label: in front of the policy's name, such as `seed 3, `.
      unit: of the training before it.
    """
    s = summary
    faults = f", {s.faults} physics faults" if s.faults else ""
    return (
        f"evaluated at {s.control_steps:,} {unit}: {label}{s.policy}: success "
        f"{success_text(s.success_chunk, s.episodes)} (any step "
        f"{success_text(s.success_any, s.episodes)}), return {s.mean_return:.1f}, "
        f"{s.episodes} episodes{faults}, {duration_text(seconds)}"
    )


def results_table(summaries: Sequence[Summary]) -> Table:
    """Returns a table with one row an evaluation; intervals are 95 % Wilson."""
    table = Table(title="Success with 95 % intervals", title_justify="left")
    for heading in ("control steps", "policy and start noise", "episodes"):
        table.add_column(heading, justify="left" if "policy" in heading else "right")
    for heading in ("success (whole chunk)", "success (any step)", "return"):
        table.add_column(heading, justify="right")
    faults = any(s.faults for s in summaries)
    if faults:
        table.add_column("physics faults", justify="right")
    for s in summaries:
        table.add_row(
            f"{s.control_steps:,}",
            s.policy,
            str(s.episodes),
            success_text(s.success_chunk, s.episodes),
            success_text(s.success_any, s.episodes),
            f"{s.mean_return:.1f}",
            *([str(s.faults)] if faults else []),
        )
    return table


def seeds_table(summaries: Mapping[int, Sequence[Summary]]) -> Table:
    """Returns the means over seeds with 95 % t intervals, one row an evaluation.

    The interval is that of the mean over training seeds; all share the episodes.
    """
    table = Table(
        title=f"Success, mean of {len(summaries)} seeds with 95 % t intervals",
        title_justify="left",
    )
    for heading in ("control steps", "policy and start noise", "episodes per seed"):
        table.add_column(heading, justify="left" if "policy" in heading else "right")
    for heading in ("success (whole chunk)", "least to most", "return"):
        table.add_column(heading, justify="right")
    for same in zip(*summaries.values(), strict=True):
        rates = [s.success_chunk / s.episodes for s in same]
        table.add_row(
            f"{same[0].control_steps:,}",
            same[0].policy,
            str(same[0].episodes),
            mean_text(rates),
            f"{min(rates):.3f} to {max(rates):.3f}",
            f"{statistics.fmean(s.mean_return for s in same):.1f}",
        )
    return table


def t_interval(rates: Sequence[float]) -> tuple[float, float]:
    """Returns the 95 % t interval of the mean of at least two rates, within [0, 1]."""
    mean, error = statistics.fmean(rates), stats.sem(rates)
    half = stats.t.ppf(0.975, len(rates) - 1) * error
    return max(mean - half, 0.0), min(mean + half, 1.0)


def mean_text(rates: Sequence[float]) -> str:
    """Returns the mean of at least two rates and its 95 % t interval."""
    low, high = t_interval(rates)
    return f"{statistics.fmean(rates):.3f} [{low:.3f}, {high:.3f}]"


def runs_text(successes: Sequence[int], episodes: int) -> str:
    """Returns the success of runs and its 95 % interval, as the tables have it.

    Args:
      successes: of each run; of one, the interval is Wilson's, of several that of the
        mean over runs.
      episodes: of each run.
    """
    if len(successes) == 1:
        return success_text(successes[0], episodes)
    return mean_text([count / episodes for count in successes])


def episodes_text(values: np.ndarray) -> str:
    """Returns the mean of `values [episodes]` and its 95 % bootstrap interval.

    For values of which equal episodes give pairs, such as differences of two policies.
    """
    mean, low, high = episodes_interval(values)
    return f"{mean:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low < high else "")


def episodes_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Returns the mean of `values [episodes]` and its 95 % bootstrap interval.

    Values that are all equal have the interval of no width.
    """
    mean = float(values.mean())
    if np.ptp(values) == 0:
        return mean, mean, mean
    # all resamples at once would take gigabytes; the draws are the same
    batch = max(1, _BOOTSTRAP_VALUES // len(values))
    rng = np.random.default_rng(0)
    found = stats.bootstrap((values,), np.mean, batch=batch, rng=rng)
    low, high = found.confidence_interval
    return mean, float(low), float(high)


def print_results(summaries: Sequence[Summary], console: Console | None = None) -> None:
    """Prints the table of a run's evaluations to stdout."""
    print_table(results_table(summaries), console)


def print_seed_means(
    summaries: Mapping[int, Sequence[Summary]], console: Console | None = None
) -> None:
    """Prints the means of several seeds' evaluations to stdout."""
    print_table(seeds_table(summaries), console)


def success_text(successes: int, n: int) -> str:
    """Returns e.g. `0.405 [0.339, 0.474]`."""
    low, high = wilson(successes, n)
    rate = successes / n if n else math.nan
    return f"{rate:.3f} [{low:.3f}, {high:.3f}]"
