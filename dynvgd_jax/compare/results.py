"""The last evaluations of a comparison's runs: as a table, and as comparison.csv."""

import csv
import io
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.table import Table

from dynvgd_jax.compare.plan import Plan, Run
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.scores import judged_by_return, normalised_score, reference
from dynvgd_jax.runs.durable import write_durably
from dynvgd_jax.runs.intervals import episodes_interval, t_interval, wilson
from dynvgd_jax.runs.metrics import EPISODES_FILE
from dynvgd_jax.runs.report import interval_text, runs_text

TABLE_FILE = "comparison.csv"
_COLUMNS = (
    "method",
    "policy",
    "control_steps",
    "seeds",
    "seeds_planned",
    "episodes_per_seed",
    "success_mean",
    "success_low",
    "success_high",
    "success_least",
    "success_most",
    "success_any_mean",
    "return_mean",
)
# Of tasks that are judged by return, in place of those from success_mean on.
_RETURN_COLUMNS = (
    "return_mean",
    "return_low",
    "return_high",
    "return_least",
    "return_most",
    "normalized_score_mean",
)
_COUNTS = 6  # columns before


class Last(NamedTuple):
    """A run's last evaluation."""

    control_steps: int  # of training before it
    episodes: int
    success_chunk: int  # episodes with a whole successful chunk
    success_any: int  # episodes with any successful control step
    mean_return: float
    # of tasks that are judged by return, each episode's own
    returns: tuple[float, ...] = ()


class Row(NamedTuple):
    """What a comparison found of one method."""

    name: str
    policy: str  # method and start noise, such as vgd/tanh_randn
    planned: int  # seeds
    found: tuple[Last, ...]  # of the seeds whose runs are finished
    task: str = ""

    @property
    def by_return(self) -> bool:
        return judged_by_return(self.task)

    @property
    def values(self) -> list[float]:
        """Success of each seed, or its mean return."""
        if self.by_return:
            return [statistics.fmean(last.returns) for last in self.found]
        return [last.success_chunk / last.episodes for last in self.found]

    @property
    def interval(self) -> tuple[float, float]:
        """95 %: of the mean over seeds (t), or of one seed's episodes.

        The latter is Wilson's, of returns the bootstrap's.
        """
        if len(self.found) > 1:
            whole = (-math.inf, math.inf) if self.by_return else (0.0, 1.0)
            return t_interval(self.values, whole)
        (only,) = self.found
        if self.by_return:
            return episodes_interval(np.array(only.returns))[1:]
        return wilson(only.success_chunk, only.episodes)

    @property
    def score(self) -> float | None:
        """The mean return as D4RL's score, where the task has one."""
        if not self.by_return or reference(self.task) is None:
            return None
        return float(normalised_score(self.task, statistics.fmean(self.values)))


def read_rows(plan: Plan, finished: Sequence[Run]) -> list[Row]:
    """Returns a row a method, in the order of the plan.

    Args:
      plan: of the comparison.
      finished: the runs that have all their evaluations.

    Raises:
      UserError: a finished run's eval.csv is missing or damaged.
    """
    rows = []
    for name in dict.fromkeys(run.name for run in plan.runs):
        runs = [run for run in plan.runs if run.name == name]
        found = tuple(read_last(run) for run in runs if run in finished)
        task = runs[0].config.task
        rows.append(Row(name, _policy(runs[0]), len(runs), found, task))
    return rows


def read_last(run: Run) -> Last:
    """Returns the last evaluation of the policy that a run is about.

    Raises:
      UserError: its eval.csv holds none, or cannot be read.
    """
    path = run.folder / EPISODES_FILE
    try:
        with open(path, newline="", encoding="ascii") as file:
            rows = [r for r in csv.DictReader(file) if r["policy"] == _policy(run)]
        newest = max(int(row["control_steps"]) for row in rows)
        rows = [row for row in rows if int(row["control_steps"]) == newest]
        episodes = run.config.eval.episodes
        if len(rows) != episodes:
            raise ValueError(f"the last has {len(rows)} of {episodes} episodes")
        returns = [float(row["return"]) for row in rows]
        own = ()
        if judged_by_return(run.config.task):
            lengths = (int(row["length"]) for row in rows)
            offset = run.config.reward_offset
            own = tuple(r + offset * n for r, n in zip(returns, lengths, strict=True))
        return Last(
            newest,
            len(rows),
            sum(int(row["success_chunk"]) for row in rows),
            sum(int(row["success_any"]) for row in rows),
            statistics.fmean(returns),
            own,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} holds no evaluation of {_policy(run)} ({error}); remove the run's "
            "folder, and the same command makes it again"
        ) from error


def write_table(folder: Path, rows: Sequence[Row]) -> None:
    """Writes comparison.csv; methods of which nothing is finished have empty fields."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = _COLUMNS
    if any(row.by_return for row in rows):
        columns = _COLUMNS[:_COUNTS] + _RETURN_COLUMNS
    writer.writerow(columns)
    writer.writerows(map(_cells, rows))
    write_durably(folder / TABLE_FILE, text.getvalue().encode())


def results_table(rows: Sequence[Row]) -> Table:
    """Returns the table that is printed."""
    by_return = any(row.by_return for row in rows)
    what = "Return" if by_return else "Success (whole chunk)"
    table = Table(title=f"{what} at the end, 95 % intervals", title_justify="left")
    table.add_column("method")
    for heading in ("seeds", "control steps", "episodes per seed"):
        table.add_column(heading, justify="right")
    own = ("return", "least to most", "normalised score")
    success = ("success", "least to most", "any step", "return")
    for heading in own if by_return else success:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*_texts(row))
    return table


def _policy(run: Run) -> str:
    return f"{run.config.method}/{run.config.acting_noise}"


def _steps(row: Row) -> int:
    return max(last.control_steps for last in row.found)


def _any_rate(row: Row) -> float:
    return statistics.fmean(last.success_any / last.episodes for last in row.found)


def _return(row: Row) -> float:
    return statistics.fmean(last.mean_return for last in row.found)


def _cells(row: Row) -> list:
    begin = [row.name, row.policy]
    rest = len(_RETURN_COLUMNS if row.by_return else _COLUMNS[_COUNTS:])
    if not row.found:
        return [*begin, "", 0, row.planned, *[""] * (1 + rest)]
    each = row.values
    values = [statistics.fmean(each), *row.interval, min(each), max(each)]
    if row.by_return:
        values.append("" if row.score is None else row.score)
    else:
        values += [_any_rate(row), _return(row)]
    counts = (_steps(row), len(each), row.planned, row.found[0].episodes)
    return [*begin, *counts, *(v if v == "" else repr(v) for v in values)]


def _texts(row: Row) -> list[str]:
    seeds = str(len(row.found))
    if len(row.found) < row.planned:
        seeds += f" of {row.planned}"
    if not row.found:
        return [row.name, seeds, *"-" * (5 if row.by_return else 6)]
    episodes = row.found[0].episodes
    if row.by_return:
        mean = statistics.fmean(row.values)
        return [
            row.name,
            seeds,
            f"{_steps(row):,}",
            str(episodes),
            interval_text((mean, *row.interval)),
            f"{min(row.values):.1f} to {max(row.values):.1f}",
            "-" if row.score is None else f"{row.score:.1f}",
        ]
    success = runs_text([last.success_chunk for last in row.found], episodes)
    return [
        row.name,
        seeds,
        f"{_steps(row):,}",
        str(episodes),
        success,
        f"{min(row.values):.3f} to {max(row.values):.3f}",
        f"{_any_rate(row):.3f}",
        f"{_return(row):.1f}",
    ]
