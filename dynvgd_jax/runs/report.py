"""What a run shows in the terminal: progress while it goes, a table at its end."""

import math
import shlex
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from dynvgd_jax.runs.intervals import episodes_interval, t_interval, wilson
from dynvgd_jax.runs.summary import Summary

# The rate is measured over this much of the recent past, evaluations included.
_RATE_WINDOW_S = 300.0
SUCCESS_HEADINGS = ("success (whole chunk)", "success (any step)", "return")
RETURN_HEADINGS = ("return", "normalised score", "control steps each")
# Without a terminal a line is printed this often.
_LINE_EVERY_S = 60.0


def evaluation_line(summary: Summary, seconds: float, label: str = "") -> str:
    """Returns one line on a finished evaluation.

    Args:
      summary: of the evaluation.
      seconds: that it took.
      label: in front of the policy's name, such as `seed 3, `.
    """
    s = summary
    faults = f", {s.faults} physics faults" if s.faults else ""
    if s.returns is not None:
        score = f", normalised score {interval_text(s.scores)}" if s.scores else ""
        return (
            f"evaluated at {s.control_steps:,} control steps: {label}{s.policy}: "
            f"return {interval_text(s.returns)}{score}, length {s.mean_length:.0f}, "
            f"{s.episodes} episodes{faults}, {duration_text(seconds)}"
        )
    return (
        f"evaluated at {s.control_steps:,} control steps: {label}{s.policy}: success "
        f"{success_text(s.success_chunk, s.episodes)} (any step "
        f"{success_text(s.success_any, s.episodes)}), return {s.mean_return:.1f}, "
        f"{s.episodes} episodes{faults}, {duration_text(seconds)}"
    )


def results_table(summaries: Sequence[Summary]) -> Table:
    """Returns a table with one row an evaluation.

    The 95 % intervals are Wilson's, of returns the bootstrap's over episodes.
    """
    by_return = any(s.returns is not None for s in summaries)
    what = "Return" if by_return else "Success"
    table = Table(title=f"{what} with 95 % intervals", title_justify="left")
    for heading in ("control steps", "policy and start noise", "episodes"):
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


def print_results(summaries: Sequence[Summary], console: Console | None = None) -> None:
    """Prints the table of a run's evaluations to stdout."""
    print_table(results_table(summaries), console)


def print_seed_means(
    summaries: Mapping[int, Sequence[Summary]], console: Console | None = None
) -> None:
    """Prints the means of several seeds' evaluations to stdout."""
    print_table(seeds_table(summaries), console)


def print_next_commands(folder: Path, one_seed: Path) -> None:
    """Prints what one types after a run.

    Args:
      folder: of the run.
      one_seed: of its first seed; the same where there is one.
    """
    folder, one_seed = (shlex.quote(str(path)) for path in (folder, one_seed))
    print(
        f"curves:            tensorboard --logdir={folder}\n"
        f"held-out episodes: python -m dynvgd_jax.evaluate {one_seed} --seed=1\n"
        f"one page:          python -m dynvgd_jax.report {folder} --output=report"
    )


def print_table(table: Table, console: Console | None = None) -> None:
    """Prints `table`, 140 characters wide where stdout has no width of its own."""
    console = console or Console()
    if not console.is_terminal:  # a file has no width to fit into
        console.width = 140
    console.print(table)


def success_text(successes: int, n: int) -> str:
    """Returns e.g. `0.405 [0.339, 0.474]`."""
    low, high = wilson(successes, n)
    rate = successes / n if n else math.nan
    return f"{rate:.3f} [{low:.3f}, {high:.3f}]"


def duration_text(seconds: float | None) -> str:
    """Returns e.g. `45 s`, `12 min`, `3 h 05 min`, `143 d 2 h`, or `?` for None."""
    if seconds is None or not math.isfinite(seconds):
        return "?"
    seconds = max(0, round(seconds))
    if seconds < 100:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"


class Progress:
    """A progress bar on stderr, or plain lines where stderr is no terminal.

    Use it in a `with` block; `update` may be called as often as one likes.
    """

    def __init__(
        self,
        total: int,
        *,
        unit: str = "control steps",
        quiet: bool = False,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Prepares a display.

        Args:
          total: units of the whole job.
          unit: what is counted.
          quiet: show nothing, as another process does.
          console: where to; stderr by default.
          clock: seconds, never going backwards.
        """
        self.total = total
        self.unit = unit
        self._console = console or Console(stderr=True, quiet=quiet)
        self._clock = clock
        self._history = deque([(clock(), 0)])
        self._done = 0
        self._measure, self._stage = "success -", ""
        self._next_line = clock()
        self._bar = None

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._bar = RichProgress(
                BarColumn(bar_width=16),
                TextColumn("{task.fields[text]}", markup=False),
                console=self._console,
                refresh_per_second=2,
            )
            self._task = self._bar.add_task("", total=self.total, text="starting")
            self._bar.start()
        return self

    def __exit__(self, *exception) -> None:
        if self._bar is not None:
            self._bar.stop()
        else:
            self.message(self.line())

    def update(
        self,
        done: int,
        *,
        success: float | None = None,
        mean_return: float | None = None,
        stage: str = "",
    ) -> None:
        """Shows the state after `done` units.

        Args:
          done: units so far, never less than before.
          success: recent success rate in [0, 1]; None where there is none yet.
          mean_return: recent mean return, of tasks that are judged by it.
          stage: what is going on, such as `evaluating 50/200`.
        """
        now = self._clock()
        self._done = done
        self._history.append((now, done))
        # Keeps the last progress in sight while a long evaluation makes none.
        while now - self._history[1][0] > _RATE_WINDOW_S and self._history[1][1] < done:
            self._history.popleft()
        self._measure = "success -" if success is None else f"success {success:.2f}"
        if mean_return is not None:
            self._measure = f"return {mean_return:.0f}"
        self._stage = f" | {stage}" if stage else ""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, text=self.line())
        elif now >= self._next_line:
            self._next_line = now + _LINE_EVERY_S
            self.message(self.line())

    def restart_rate(self, done: int | None = None) -> None:
        """Forgets the past speed: call it where the work per unit changes.

        Args:
          done: units that an earlier job did already; None leaves the count.
        """
        self._done = self._done if done is None else done
        self._history = deque([(self._clock(), self._done)])

    def message(self, text: str) -> None:
        """Prints a line that stays above the bar."""
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)

    def rate(self) -> float | None:
        """Units per second over the last minutes; None before the first progress."""
        (start, first), (end, last) = self._history[0], self._history[-1]
        return (last - first) / (end - start) if end > start and last > first else None

    def line(self) -> str:
        """The state as text: how far, success, how fast, how long still."""
        rate = self.rate()
        left = None if rate is None else (self.total - self._done) / rate
        speed = "-" if rate is None else f"{rate:.1f}"
        return (
            f"{self._done / max(self.total, 1):.1%} | {self._measure} | "
            f"{speed} {self.unit}/s | {duration_text(left)} left | "
            f"{self._done:,}/{self.total:,}{self._stage}"
        )
