"""Puts a report together: runs in, a folder with the page, figures and numbers out."""

import functools
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.table import Table as TerminalTable

from dynvgd_jax.core.scores import SUCCESS
from dynvgd_jax.report import figures, files, scalars, tables
from dynvgd_jax.report.grouping import Panel, group
from dynvgd_jax.report.page import Part, Picture, Section, cell_text, render, summary_of
from dynvgd_jax.report.reading import Run, find_runs
from dynvgd_jax.report.scalars import Quantity
from dynvgd_jax.report.tables import Table
from dynvgd_jax.runs.terminal import PATIENCE_S, Progress, print_table

_BAND = (
    "the band is the 95 % interval over seeds (bars, one seed: over "
    "episodes), thin lines are the seeds"
)
_COURSES = "Mean over seeds, shaded from the least to the greatest."


def build_report(paths: Sequence[Path], output: Path) -> list[str]:
    """Writes the report of all runs in `paths` and returns what it has to say on them.

    Args:
      paths: run folders, or folders that hold some.
      output: new or empty folder, or that of an earlier report, which is replaced
        once the new one is complete.

    Raises:
      UserError: a path holds no run, no run can be read, or `output` is taken.
    """
    found = find_runs(paths)
    panels, unequal = group(found.runs)
    notes = [*found.notes, *unequal]
    with files.new_report(output) as folder:
        parts = _write(folder, found.runs, panels, notes)
    for part in parts:
        _print(part)
    return notes


def _write(
    output: Path, runs: Sequence[Run], panels: Sequence[Panel], notes: Sequence[str]
) -> list[Part]:
    """Fills the folder `output` and returns what the page has on each task."""
    total = sum(map(_count_courses, panels))
    showing = Progress(total, unit="charts", patience_s=PATIENCE_S)
    with figures.style(), showing as bar:
        drawn = itertools.count(1)

        def advance() -> None:
            bar.update(next(drawn))

        parts = [_part(panel, output, advance) for panel in panels]
    over_tasks = tables.over_tasks(panels)
    whole = {
        "runs": tables.runs_table(panels),
        "fields": tables.fields_table(panels),
        "evaluations": tables.evaluations(panels),
        "differences": tables.differences(panels),
        "commands": tables.commands_table(panels),
        "versions": tables.versions_table(runs),
    }
    own = (tables.steps_to(panels), scalars.scalars_table(panels), over_tasks)
    written = [
        files.write_table(output, [("", table)])
        for table in (*whole.values(), *own)
        if table is not None
    ]
    for name in ("comparison", "improvement"):
        same = [(part.title, getattr(part, name)) for part in parts]
        written.append(files.write_table(output, same))
    same = [(p.title, scalars.correlation_table(p)) for p in panels]
    written.append(files.write_table(output, same))
    finished = sum(run.is_finished for run in runs)
    settings = sum(len(panel.settings) for panel in panels)
    titles = [panel.title for panel in panels]
    page = render(
        title=f"Report of runs: {'; '.join(titles)}",
        summary=summary_of(len(runs), finished, settings, titles),
        notes=notes,
        parts=parts,
        over_tasks=over_tasks,
        csv_files=sorted(written),
        **whole,
    )
    (output / files.PAGE).write_text(page, encoding="utf-8")
    return parts


def _count_courses(panel: Panel) -> int:
    fixed = (*scalars.GUIDANCE, *scalars.CRITICS, *scalars.TRAINING)
    return len(fixed) + len(scalars.others(panel))


def _part(panel: Panel, output: Path, advance: Callable[[], None]) -> Part:
    keep = functools.partial(_keep, output, panel)
    success = []
    what = "Success" if panel.measure == SUCCESS else panel.measure.capitalize()
    if panel.trained:
        for name, by_minutes, caption in (
            ("success_steps", False, f"{what} against control steps; {_BAND}."),
            ("success_minutes", True, f"{what} against minutes, pauses left out."),
        ):
            figure = figures.success_figure(panel, by_minutes=by_minutes)
            success.append(keep(name, caption, figure, caption))
    for name, figure, caption in (
        (
            "iqm",
            figures.aggregate_figure(panel),
            "Interquartile mean over seeds with its 95 % interval.",
        ),
        (
            "improvement",
            figures.improvement_figure(panel),
            "Probability that the first setting improves on the others.",
        ),
    ):
        if figure is not None:
            success.append(keep(name, caption, figure, caption))
    return Part(
        panel.title,
        success,
        tables.comparison(panel),
        tables.improvement(panel),
        _sections(panel, keep, advance),
    )


def _sections(
    panel: Panel, keep: Callable[..., Picture], advance: Callable[[], None]
) -> list[Section]:
    def section(title: str, quantities: Sequence[Quantity], folded=False) -> Section:
        drawn, missing = [], []
        for quantity in quantities:
            figure = figures.course_figure(panel, quantity)
            advance()
            if figure is None:
                missing.append(quantity.title)
            else:
                drawn.append(keep(quantity.name, quantity.title, figure))
        note = f"{_COURSES if drawn else ''} {_missing(missing)}".strip()
        return Section(title, drawn, None, note, folded)

    found = [section("λ_t and w over training", scalars.GUIDANCE)]
    title, figure = "TD error against λ_t", figures.td_figure(panel)
    if figure is None:
        found.append(Section(title, [], None, _missing(["TD error with λ and w"])))
    else:
        drawn, table = [keep("td_lambda", title, figure)], scalars.correlation_table
        found.append(Section(title, drawn, table(panel), "A dot is a logged point."))
    found.append(section("Critics: Q, spread, gradient norms", scalars.CRITICS))
    found.append(section("Training", scalars.TRAINING))
    others = scalars.others(panel)
    if others:
        found.append(section("Other scalars of guidance", others, folded=True))
    return found


def _missing(titles: Sequence[str]) -> str:
    return f"No run here wrote: {'; '.join(titles)}." if titles else ""


def _keep(
    output: Path, panel: Panel, name: str, label: str, figure, caption=""
) -> Picture:
    place = re.sub(r"\W+", "_", panel.title.lower().replace("ddim ", "ddim"))
    label = f"{panel.title}: {label}"
    return files.save_figure(output, f"{place}_{name}", label, figure, caption)


def _print(part: Part) -> None:
    """The main numbers, and the pairs of the first setting; the page has the rest."""
    first = part.improvement.rows[0][0] if part.improvement.rows else ""
    pairs = [row for row in part.improvement.rows if row[0] == first]
    for table in (part.comparison, part.improvement._replace(rows=pairs)):
        if table.rows:
            print_table(_terminal(part.title, table))


def _terminal(title: str, table: Table) -> TerminalTable:
    shown = TerminalTable(title=f"{title}: {table.title}", title_justify="left")
    for heading in table.headings:
        shown.add_column(heading)
    for row in table.rows:
        shown.add_row(*map(cell_text, row))
    return shown
