"""The report's figures, each one small enough to be read on a phone."""

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from dynvgd_jax.core.scores import SUCCESS
from dynvgd_jax.report import statistics
from dynvgd_jax.report.grouping import Panel, Setting, rate
from dynvgd_jax.report.reading import Run
from dynvgd_jax.report.scalars import (
    Course,
    Quantity,
    courses,
    mean_and_ends,
    td_and_lambda,
)
from dynvgd_jax.report.tables import Score, base_scores, scores, success

# Told apart by people who see colours otherwise (Okabe and Ito), on light ground. The
# page replaces each by its own on dark ground (`page.py`), so each stands for itself.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56a5d9")
COLOURS += ("#7d55b0", "#8c5a3c", "#5f7a1f", "#a03050")
INK, GRID, FAINT = "#22262b", "#d9dde2", "#7c848d"
MARKERS = "osD^vPXph*"
BASE_STYLES = ("--", ":", "-.")
_STYLE = {
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "dynvgd_jax",  # equal runs, equal files
    "text.parse_math": False,  # a label may hold a $
}
_WIDTH, _HEIGHT = 5.2, 3.3  # inches


def style():
    """Returns the context in which figures are made and saved."""
    return matplotlib.rc_context(_STYLE)


def success_figure(panel: Panel, *, by_minutes: bool) -> Figure:
    """Success of each setting against control steps or minutes.

    The band of several seeds is the 95 % interval of their mean; that of a single seed
    is drawn as bars, the Wilson interval over episodes. Thin lines are the
    seeds. The base policy is level: nothing of it is trained.
    """
    figure, axis = _new()
    for i, setting in enumerate(panel.settings):
        if setting in panel.trained:
            _draw_success(axis, setting, i, by_minutes)
    for score, line in zip(base_scores(panel), BASE_STYLES * 9, strict=False):
        axis.axhline(score.rates[0], ls=line, color=FAINT, lw=1.3, label=score.label)
    if panel.measure == SUCCESS:
        axis.set_ylim(-0.02, 1.02)
    axis.set_xlim(left=0)
    axis.set_ylabel(panel.measure)
    if by_minutes:
        axis.set_xlabel("minutes, evaluations included")
    else:
        _control_steps(axis)
    _legend(figure, axis)
    return figure


def _draw_success(axis: Axes, setting: Setting, i: int, by_minutes: bool) -> None:
    def places(run: Run, steps: Sequence[int]) -> list[float]:
        return [run.minutes_at(s) if by_minutes else s for s in steps]

    runs, steps = setting.evaluated, setting.common_steps
    found = [success(setting, s) for s in steps]
    x = np.mean([places(run, steps) for run in runs], axis=0)
    mean, low, high = np.array(found).T
    look = {"color": colour(i), "marker": MARKERS[i % len(MARKERS)], "ms": 4.5}
    look["ls"] = _line(i)
    if len(runs) == 1:
        ends = (mean - low, high - mean)
        axis.errorbar(x, mean, ends, capsize=2.5, lw=1.6, label=setting.label, **look)
        return
    axis.plot(x, mean, lw=1.8, label=setting.label, **look)
    axis.fill_between(x, low, high, color=colour(i), alpha=0.16, lw=0)
    for run in runs:
        own = run.steered
        rates = [rate(episodes) for episodes in own.values()]
        axis.plot(places(run, list(own)), rates, color=colour(i), lw=0.6, alpha=0.6)


def aggregate_figure(panel: Panel) -> Figure | None:
    """Interquartile means of what is compared; None before the first evaluation."""
    every = scores(panel)
    if not every:
        return None
    found = [
        statistics.interquartile_mean([score.rates], panel.within) for score in every
    ]
    figure, axis = _new(0.9 + 0.32 * len(every))
    _draw_estimates(axis, [s.label for s in every], found, _colours_of(panel, every))
    what = "success" if panel.measure == SUCCESS else panel.measure
    axis.set_xlabel(f"interquartile mean of {what} over seeds")
    if panel.measure == SUCCESS:
        axis.set_xlim(0, 1.02)
    return figure


def improvement_figure(panel: Panel) -> Figure | None:
    """Probability that the first setting improves on each other.

    None where nothing trained is evaluated yet, or nothing else is.
    """
    if not panel.trained:
        return None
    first, *rest = scores(panel)
    if not rest:
        return None
    found = [
        statistics.probability_of_improvement([first.rates], [other.rates])
        for other in rest
    ]
    figure, axis = _new(0.9 + 0.32 * len(rest))
    _draw_estimates(axis, [s.label for s in rest], found, _colours_of(panel, rest))
    axis.axvline(0.5, color=FAINT, lw=1, ls="--")
    axis.set_xlabel(f"P({_short(first.label)} > Y), Y on the left")
    axis.set_xlim(-0.02, 1.02)
    return figure


def _colours_of(panel: Panel, every: Sequence[Score]) -> list[str]:
    places = {setting.label: i for i, setting in enumerate(panel.settings)}
    return [colour(places[s.label]) if s.label in places else FAINT for s in every]


def _draw_estimates(axis: Axes, labels, found, colours) -> None:
    for row, (estimate, tint) in enumerate(zip(found, colours, strict=True)):
        if not math.isnan(estimate.low):
            ends = [estimate.low, estimate.high]
            axis.plot(ends, [row, row], lw=7, alpha=0.3, c=tint, solid_capstyle="butt")
        axis.plot([estimate.value], [row], "|", c=tint, ms=14, mew=2.5)
    axis.set_yticks(range(len(labels)), [_short(label, 30) for label in labels])
    axis.set_ylim(len(labels) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)


def course_figure(panel: Panel, quantity: Quantity) -> Figure | None:
    """A quantity over training: mean over seeds, shaded from least to greatest.

    None where no run has it.
    """
    found = courses(panel, quantity)
    if not found:
        return None
    figure, axis = _new()
    for i, setting in enumerate(panel.settings):
        for course in found:
            if course.label == setting.label:
                _draw_course(axis, course, i)
    low, high = axis.get_ylim()
    if low > 0 and low < 0.6 * high:
        axis.set_ylim(bottom=0)
    axis.set_title(quantity.title, loc="left")
    _control_steps(axis)
    _legend(figure, axis)
    return figure


def _draw_course(axis: Axes, course: Course, i: int) -> None:
    mean, low, high = mean_and_ends(course.values)
    marker = "o" if len(course.steps) == 1 else ""
    axis.plot(course.steps, mean, c=colour(i), lw=1.4, marker=marker, ls=_line(i),
              label=course.label)  # fmt: skip
    if len(course.values) > 1:
        axis.fill_between(course.steps, low, high, color=colour(i), alpha=0.18, lw=0)


def td_figure(panel: Panel) -> Figure | None:
    """TD error against lambda_t, a dot each logged point; None where no run has it."""
    figure, axis = _new()
    drawn = False
    for i, setting in enumerate(panel.settings):
        series = [own for own in td_and_lambda(setting) if len(own[0])]
        if series:
            x, y = (np.concatenate(parts) for parts in zip(*series, strict=True))
            every = max(1, len(x) // 800)  # more dots only cover each other
            axis.plot(x[::every], y[::every], MARKERS[i % len(MARKERS)], ms=2.8,
                      alpha=0.55, mew=0, c=colour(i), label=setting.label)  # fmt: skip
            drawn = True
    if not drawn:
        return None
    axis.set_xlabel("TD error |Q - y|")
    axis.set_ylabel("λ_t = λ · w")
    axis.set_ylim(bottom=0)
    _legend(figure, axis)
    return figure


def colour(i: int) -> str:
    """Returns the colour of a part's i-th setting."""
    return COLOURS[i % len(COLOURS)]


def _line(i: int) -> str:
    """Six colours are easily told apart; the others are dashed as well."""
    return "-" if i % len(COLOURS) < 6 else "--"


def _new(height: float = _HEIGHT) -> tuple[Figure, Axes]:
    figure = Figure((_WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _control_steps(axis: Axes) -> None:
    axis.set_xlabel("control steps")
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))


def _legend(figure: Figure, axis: Axes) -> None:
    lines, labels = axis.get_legend_handles_labels()
    labels = [_short(label, 60) for label in labels]
    columns = 2 if max(map(len, labels), default=0) < 30 else 1
    figure.legend(lines, labels, loc="outside lower center", ncols=columns)
    rows = math.ceil(len(labels) / columns)
    figure.set_figheight(_HEIGHT + 0.2 * max(0, rows - 1))


def _short(text: str, most: int = 24) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
