"""The last evaluations of a comparison's runs: as a table, and as comparison.csv."""

import csv
import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from dynvgd_jax.compare.plan import Plan, Run
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.runs.durable import write_durably
from dynvgd_jax.runs.intervals import t_interval, wilson
from dynvgd_jax.runs.metrics import EPISODES_FILE
from dynvgd_jax.runs.report import runs_text

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


class Last(NamedTuple):
    """A run's last evaluation."""

    control_steps: int  # of training before it
    episodes: int
    success_chunk: int  # episodes with a whole successful chunk
    success_any: int  # episodes with any successful control step
    mean_return: float


class Row(NamedTuple):
    """What a comparison found of one method."""

    name: str
    policy: str  # method and start noise, such as vgd/tanh_randn
    planned: int  # seeds
    found: tuple[Last, ...]  # of the seeds whose runs are finished

    @property
    def rates(self) -> list[float]:
        """Success of each seed."""
        return [last.success_chunk / last.episodes for last in self.found]

    @property
    def interval(self) -> tuple[float, float]:
        """95 %: of the mean over seeds (t), or of one seed's episodes (Wilson)."""
        if len(self.found) > 1:
            return t_interval(self.rates)
        return wilson(self.found[0].success_chunk, self.found[0].episodes)


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
        rows.append(Row(name, _policy(runs[0]), len(runs), found))
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
        return Last(
            newest,
            len(rows),
            sum(int(row["success_chunk"]) for row in rows),
            sum(int(row["success_any"]) for row in rows),
            statistics.fmean(float(row["return"]) for row in rows),
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
    writer.writerow(_COLUMNS)
    writer.writerows(map(_cells, rows))
    write_durably(folder / TABLE_FILE, text.getvalue().encode())


def results_table(rows: Sequence[Row]) -> Table:
    """Returns the table that is printed."""
    table = Table(
        title="Success (whole chunk) at the end, 95 % intervals", title_justify="left"
    )
    table.add_column("method")
    for heading in ("seeds", "control steps", "episodes per seed"):
        table.add_column(heading, justify="right")
    for heading in ("success", "least to most", "any step", "return"):
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
    if not row.found:
        return [*begin, "", 0, row.planned, *[""] * (len(_COLUMNS) - 5)]
    rates = row.rates
    values = (statistics.fmean(rates), *row.interval, min(rates), max(rates))
    values += (_any_rate(row), _return(row))
    counts = (_steps(row), len(rates), row.planned, row.found[0].episodes)
    return [*begin, *counts, *map(repr, values)]


def _texts(row: Row) -> list[str]:
    seeds = str(len(row.found))
    if len(row.found) < row.planned:
        seeds += f" of {row.planned}"
    if not row.found:
        return [row.name, seeds, *"-" * 6]
    episodes = row.found[0].episodes
    success = runs_text([last.success_chunk for last in row.found], episodes)
    return [
        row.name,
        seeds,
        f"{_steps(row):,}",
        str(episodes),
        success,
        f"{min(row.rates):.3f} to {max(row.rates):.3f}",
        f"{_any_rate(row):.3f}",
        f"{_return(row):.1f}",
    ]
