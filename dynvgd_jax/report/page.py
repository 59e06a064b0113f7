"""The report's page: one HTML file that needs nothing else, in light and dark."""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from dynvgd_jax.report.figures import COLOURS, FAINT, GRID, INK
from dynvgd_jax.report.statistics import Estimate
from dynvgd_jax.report.tables import Table

# On dark ground, in the order of COLOURS.
DARK_COLOURS = ("#58a9e8", "#f28e4c", "#35c79a", "#e6a3cb", "#e0b040", "#9ad2f5")
DARK_COLOURS += ("#b394e0", "#c8906a", "#a5c455", "#e07a96")


class Picture(NamedTuple):
    """A figure within the page."""

    caption: str
    svg: Markup


class Section(NamedTuple):
    """Figures under a heading; the note says what they show and what is missing."""

    title: str
    figures: list[Picture]
    table: Table | None = None
    note: str = ""
    folded: bool = False


class Part(NamedTuple):
    """What the page has on one task."""

    title: str
    success: list[Picture]
    comparison: Table
    improvement: Table
    sections: list[Section]


def render(**content: Any) -> str:
    """Returns the page.

    Args:
      content: what `page.html.j2` names: title, summary, notes, parts, and the tables.
    """
    environment = Environment(
        loader=PackageLoader("dynvgd_jax.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["show"] = cell_text
    environment.tests["numeric"] = lambda cell: isinstance(cell, int | float | Estimate)
    page = environment.get_template("page.html.j2")
    return page.render(colours=COLOURS, dark_colours=DARK_COLOURS, **content)


def cell_text(cell: Any) -> str:
    """Returns a table's cell as text; what is missing is a dash."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "–"
    if isinstance(cell, Estimate | str):
        return str(cell)
    if isinstance(cell, int):
        return f"{cell:,}"
    return f"{cell:.3f}" if abs(cell) < 10 else f"{cell:,.1f}"


def inline(name: str, label: str, svg: str) -> Markup:
    """Returns a figure's SVG for the page.

    Its colours become the page's, its names its own, and the addresses of the formats,
    which HTML does not need, go.

    Args:
      name: unique in the page.
      label: for those who do not see it.
      svg: as matplotlib writes it.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    head, body = svg.split(">", 1)
    view = re.search(r'viewBox="[^"]*"', head)[0]
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    # A hundredth of a point is seen by nobody; a third of the page is digits behind it.
    body = re.sub(
        r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), body
    )
    for i, colour in enumerate(COLOURS):
        body = body.replace(colour, f"var(--c{i})")
    for colour, variable in ((INK, "ink"), (GRID, "grid"), (FAINT, "faint")):
        body = body.replace(colour, f"var(--{variable})")
    return Markup(f'<svg {view} role="img" aria-label="{escape(label)}">{body}')


def summary_of(runs: int, finished: int, settings: int, parts: Sequence[str]) -> str:
    """Returns the page's first line."""
    return (
        f"{runs} {_plural('run', runs)}, {finished} finished; {settings} "
        f"{_plural('setting', settings)} of {', '.join(parts)}. Success is that of a "
        "whole chunk, as published; all intervals are 95\u00a0%."
    )


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
