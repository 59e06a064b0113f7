"""What the report leaves in its folder: figures, CSV files, the page."""

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.report.page import Picture, inline
from dynvgd_jax.report.statistics import Estimate
from dynvgd_jax.report.tables import Table
from dynvgd_jax.runs.durable import new_folder, remove

PAGE, FIGURES = "index.html", "figures"
# The page's first lines say by this that it is a report's.
MARK = '<meta name="generator" content="dynvgd_jax.report">'
_MARK_WITHIN = 1000  # characters
# What a report consists of, beside its page; nothing else is ever deleted.
TABLES = ("commands", "comparison", "differences", "evaluations", "fields")
TABLES += ("improvement", "over_tasks", "runs", "scalars", "steps_to", "td_lambda")
TABLES += ("versions",)
# A part's title, such as "can, DDIM 8" or "square, flow_mlp, 8 steps", and a name.
_FIGURE = re.compile(r"\w+_(ddim\d+|\d+_steps)_\w+\.(png|svg)")


@contextmanager
def new_report(folder: Path) -> Iterator[Path]:
    """Gives a hidden neighbour of `folder` to fill, which replaces it at the end.

    An earlier report there stays until the new one is complete.

    Raises:
      UserError: the folder holds something else, or cannot be written.
    """
    _refuse_others(folder)
    place = folder.resolve()  # a link leads to the same place afterwards
    fresh = place.with_name(f".{place.name}.new")
    try:
        remove(fresh)  # of a process that died in the exchange
        with new_folder(fresh) as partial:
            (partial / FIGURES).mkdir()
            yield partial
            _refuse_others(folder)  # figures take their time
        _exchange(fresh, place)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--output: cannot write {folder}: {reason}") from error


def _exchange(fresh: Path, place: Path) -> None:
    """Puts the folder `fresh` at `place`; what is there goes once that is done."""
    old = place.with_name(f".{place.name}.old")
    if place.exists():
        remove(old)
        place.rename(old)
    try:
        fresh.rename(place)
    except OSError:
        if old.exists():
            old.rename(place)
        raise
    remove(old)


def _refuse_others(folder: Path) -> None:
    """Raises UserError where `folder` holds anything but an earlier report."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output: {folder} is a file, expected a folder")
    if not folder.is_dir():
        return
    others = _others(folder)
    if others:
        raise UserError(
            f"--output: {folder} holds other files, such as {others[0]}; give a new "
            "folder, or that of an earlier report"
        )


def _others(folder: Path) -> list[str]:
    """What lies in the folder and is of no report, by its path within."""
    names = {path.name for path in folder.iterdir()}
    if names and not _is_report(folder / PAGE):
        return sorted(names)
    own = {PAGE, *(f"{name}.csv" for name in TABLES)}
    figures = folder / FIGURES
    if figures.is_dir() and not figures.is_symlink():
        inside = sorted(path.name for path in figures.iterdir())
        drawn = [f"{FIGURES}/{n}" for n in inside if not _FIGURE.fullmatch(n)]
        own.add(FIGURES)
    else:
        drawn = []
    return [*sorted(names - own), *drawn]


def _is_report(page: Path) -> bool:
    if not page.is_file():
        return False
    with open(page, encoding="utf-8", errors="replace") as file:
        return MARK in file.read(_MARK_WITHIN)


def save_figure(
    folder: Path, name: str, label: str, figure: Figure, caption: str = ""
) -> Picture:
    """Writes a figure as PNG and SVG and returns it for the page.

    Args:
      folder: of the report.
      name: of its files, without endings.
      label: what it shows, for those who do not see it.
      figure: is not used afterwards.
      caption: below it on the page.
    """
    text = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    figure.set_layout_engine("none")  # keeps its places, which take time to find
    figure.savefig(folder / FIGURES / f"{name}.png", dpi=160, facecolor="white")
    (folder / FIGURES / f"{name}.svg").write_text(text.getvalue(), encoding="utf-8")
    return Picture(caption, inline(name, label, text.getvalue()))


def write_table(folder: Path, tables: Iterable[tuple[str, Table]]) -> str:
    """Writes tables of one kind into one CSV file and returns its name.

    An Estimate takes three columns: the number and its interval's ends.

    Args:
      folder: where to.
      tables: each with the task that its rows belong to, "" where they say it.
    """
    tables = list(tables)
    first = tables[0][1]
    wide = {
        i
        for _, table in tables
        for row in table.rows
        for i, cell in enumerate(row)
        if isinstance(cell, Estimate)
    }
    headings = ["task"] if tables[0][0] else []
    for i, heading in enumerate(first.headings):
        heading = heading or "remark"
        ends = [f"{heading} low", f"{heading} high"] if i in wide else []
        headings += [heading, *ends]
    path = folder / f"{first.name}.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(headings)
        for task, table in tables:
            for row in table.rows:
                cells = [c for i, x in enumerate(row) for c in _cells(x, i in wide)]
                writer.writerow([task, *cells] if task else cells)
    return path.name


def _cells(cell: Any, wide: bool) -> list:
    if isinstance(cell, Estimate):
        return [_plain(x) for x in cell]
    return [_plain(cell), *(["", ""] if wide else [])]


def _plain(cell: Any) -> Any:
    if isinstance(cell, float):
        return "" if math.isnan(cell) else float(f"{cell:.10g}")
    return "" if cell is None else cell
