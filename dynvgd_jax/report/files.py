"""What the report leaves in its folder: figures, CSV files, the page."""

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.report.page import Picture, inline
from dynvgd_jax.report.statistics import Estimate
from dynvgd_jax.report.tables import Table

PAGE, FIGURES = "index.html", "figures"
_OWN = {PAGE, FIGURES}


def prepare(folder: Path) -> None:
    """Makes the folder; of an earlier report there the figures and numbers are removed.

    Raises:
      UserError: it holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output: {folder} is a file, expected a folder")
    if folder.is_dir():
        names = {p.name for p in folder.iterdir() if p.suffix != ".csv"}
        if any(folder.iterdir()) and (PAGE not in names or names - _OWN):
            raise UserError(
                f"--output: {folder} holds other files; give a new folder, or that of "
                "an earlier report"
            )
        for old in (*folder.glob("*.csv"), *(folder / FIGURES).glob("*.[ps][nv]g")):
            old.unlink()
    (folder / FIGURES).mkdir(parents=True, exist_ok=True)


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
