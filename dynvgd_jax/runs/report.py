"""What is said about evaluations: averages, intervals, a line each, tables."""

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from dynvgd_jax.runs.intervals import episodes_interval, t_interval, wilson
from dynvgd_jax.runs.summary import Summary
from dynvgd_jax.runs.terminal import duration_text, print_table

SUCCESS_HEADINGS = ("success (whole chunk)", "success (any step)", "return")
RETURN_HEADINGS = ("return", "normalised score", "control steps each")


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
    if s.returns is not None:
        score = f", normalised score {interval_text(s.scores)}" if s.scores else ""
        return (
            f"evaluated at {s.control_steps:,} {unit}: {label}{s.policy}: "
            f"return {interval_text(s.returns)}{score}, length {s.mean_length:.0f}, "
            f"{s.episodes} episodes{faults}, {duration_text(seconds)}"
        )
    return (
        f"evaluated at {s.control_steps:,} {unit}: {label}{s.policy}: success "
        f"{success_text(s.success_chunk, s.episodes)} (any step "
        f"{success_text(s.success_any, s.episodes)}), return {s.mean_return:.1f}, "
        f"{s.episodes} episodes{faults}, {duration_text(seconds)}"
    )


def results_table(summaries: Sequence[Summary], unit: str = "control steps") -> Table:
    """Returns a table with one row an evaluation.

    The 95 % intervals are Wilson's, of returns the bootstrap's over episodes.

    Args:
      summaries: of the evaluations.
      unit: of the training before each.
    """
    by_return = any(s.returns is not None for s in summaries)
    what = "Return" if by_return else "Success"
    table = Table(title=f"{what} with 95 % intervals", title_justify="left")
    for heading in (unit, "policy and start noise", "episodes"):
        table.add_column(heading, justify="left" if "policy" in heading else "right")
    own = RETURN_HEADINGS if by_return else SUCCESS_HEADINGS
    for heading in own:
        table.add_column(heading, justify="right")
    faults = any(s.faults for s in summaries)
    if faults:
        table.add_column("physics faults", justify="right")
    for s in summaries:
        table.add_row(
            f"{s.control_steps:,}",
            s.policy,
            str(s.episodes),
            *_measured(s),
            *([str(s.faults)] if faults else []),
        )
    return table


def _measured(s: Summary) -> tuple[str, str, str]:
    """The cells of RETURN_HEADINGS or SUCCESS_HEADINGS."""
    if s.returns is not None:
        score = interval_text(s.scores) if s.scores else "-"
        return interval_text(s.returns), score, f"{s.mean_length:.0f}"
    chunk, any_step = (
        success_text(count, s.episodes) for count in (s.success_chunk, s.success_any)
    )
    return chunk, any_step, f"{s.mean_return:.1f}"


def interval_text(found: Sequence[float]) -> str:
    """Returns e.g. `1523.4 [1420.1, 1611.9]` of a mean and its interval."""
    mean, low, high = found
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def seeds_table(summaries: Mapping[int, Sequence[Summary]]) -> Table:
    """Returns the means over seeds with 95 % t intervals, one row an evaluation.

    The interval is that of the mean over training seeds; all share the episodes.
    """
    first = next(iter(summaries.values()))
    by_return = any(s.returns is not None for s in first)
    what = "Return" if by_return else "Success"
    table = Table(
        title=f"{what}, mean of {len(summaries)} seeds with 95 % t intervals",
        title_justify="left",
    )
    for heading in ("control steps", "policy and start noise", "episodes per seed"):
        table.add_column(heading, justify="left" if "policy" in heading else "right")
    own = ("return", "least to most", "normalised score")
    for heading in own if by_return else ("success (whole chunk)", *own[1::-1]):
        table.add_column(heading, justify="right")
    for same in zip(*summaries.values(), strict=True):
        table.add_row(
            f"{same[0].control_steps:,}",
            same[0].policy,
            str(same[0].episodes),
            *_measured_over_seeds(same),
        )
    return table


def _measured_over_seeds(same: Sequence[Summary]) -> tuple[str, str, str]:
    """One evaluation of all seeds: mean with interval, its ends, return or score."""
    if same[0].returns is not None:
        means, scores = (
            [part and part[0] for part in parts]
            for parts in zip(*((s.returns, s.scores) for s in same), strict=True)
        )
        ends = f"{min(means):.1f} to {max(means):.1f}"
        score = f"{statistics.fmean(scores):.1f}" if scores[0] is not None else "-"
        spread = t_interval(means, within=(-math.inf, math.inf))
        return interval_text((statistics.fmean(means), *spread)), ends, score
    rates = [s.success_chunk / s.episodes for s in same]
    return (
        mean_text(rates),
        f"{min(rates):.3f} to {max(rates):.3f}",
        f"{statistics.fmean(s.mean_return for s in same):.1f}",
    )


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


def print_results(
    summaries: Sequence[Summary],
    console: Console | None = None,
    *,
    unit: str = "control steps",
) -> None:
    """Prints the table of a run's evaluations to stdout."""
    print_table(results_table(summaries, unit), console)


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
