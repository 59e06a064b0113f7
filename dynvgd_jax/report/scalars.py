"""Which curves of a run the report draws, and what is computed from them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dynvgd_jax.report.events import Curve, binned
from dynvgd_jax.report.grouping import Panel, Setting
from dynvgd_jax.report.reading import Run
from dynvgd_jax.report.statistics import Estimate, rank_correlation
from dynvgd_jax.report.tables import Table

LAMBDA, WEIGHT = "guide/lambda_mean", "guide/weight_mean"
TD_ERROR = "train/td_error_mean"


class Quantity(NamedTuple):
    """Something that a run has over its training."""

    name: str  # of its figure's file
    title: str
    curve: Callable[[Run], Curve | None]


def scalar(tag: str) -> Callable[[Run], Curve | None]:
    """Returns the function that gives a run's TensorBoard scalar `tag`."""
    return lambda run: run.curves.get(tag)


def effective_lambda(run: Run) -> Curve | None:
    """Returns lambda_t, the size of a guided step per unit of gradient: lambda w.

    The run writes the means of lambda and of w over a decode; this is their product.
    """
    return _combine([run.curves.get(LAMBDA), run.curves.get(WEIGHT)], np.prod)


def mean_q(run: Run) -> Curve | None:
    """Returns the mean over the critics of their mean Q in training batches."""
    tags = [t for t in run.curves if t.startswith("train/q") and t.endswith("_mean")]
    own = [run.curves[t] for t in tags if t[len("train/q") : -len("_mean")].isdecimal()]
    return _combine(own, np.mean)


def _combine(curves: Sequence[Curve | None], reduce) -> Curve | None:
    """`reduce` of several curves where all have a point."""
    if not curves or any(curve is None for curve in curves):
        return None
    steps = curves[0].steps
    for curve in curves[1:]:
        steps = np.intersect1d(steps, curve.steps)
    if not len(steps):
        return None
    each = [c.values[np.searchsorted(c.steps, steps)] for c in curves]
    minutes = curves[0].minutes[np.searchsorted(curves[0].steps, steps)]
    return Curve(steps, minutes, reduce(each, axis=0))


GUIDANCE = (
    Quantity("lambda_t", "λ_t = λ · w: size of a guided step", effective_lambda),
    Quantity("lambda", "λ, before the weight w", scalar(LAMBDA)),
    Quantity("w", "guidance weight w", scalar(WEIGHT)),
)
CRITICS = (
    Quantity("td_error", "TD error |Q - y|", scalar(TD_ERROR)),
    Quantity("q", "mean Q over the critics", mean_q),
    Quantity("spread", "spread: std of Q over the critics",
             scalar("train/q_std_inter_critic")),
    Quantity("critic_loss", "critic loss", scalar("train/critic_loss")),
    Quantity("critic_grad_norm", "gradient norm of the critics' loss",
             scalar("train/critic_grad_norm")),
    Quantity("grad_norm", "norm of dQ/da", scalar("guide/grad_norm")),
    Quantity("weighted_grad_norm", "norm of λ w dQ/da",
             scalar("guide/weighted_grad_norm")),
)  # fmt: skip
_DRAWN = {LAMBDA, WEIGHT, "guide/grad_norm", "guide/weighted_grad_norm"}
TRAINING = (
    Quantity("train_success", "success in training", scalar("train/success_rate")),
    Quantity("speed", "control steps per second",
             scalar("time/control_steps_per_s")),
)  # fmt: skip


def others(panel: Panel) -> list[Quantity]:
    """Returns every other guide/* scalar that a run of the part has."""
    tags = {tag for s in panel.settings for run in s.runs for tag in run.curves}
    own = sorted(t for t in tags if t.startswith("guide/") and t not in _DRAWN)
    return [Quantity(tag.replace("/", "_"), tag, scalar(tag)) for tag in own]


class Course(NamedTuple):
    """A quantity of one setting over training."""

    label: str
    steps: np.ndarray  # [p] control steps
    values: np.ndarray  # [runs, p], NaN where a run has no point


def courses(panel: Panel, quantity: Quantity) -> list[Course]:
    """Returns the quantity for each setting of which a run has it."""
    found = []
    for setting in panel.settings:
        own = [quantity.curve(run) for run in setting.runs]
        own = [curve for curve in own if curve is not None and len(curve.steps)]
        if own:
            found.append(Course(setting.label, *binned(own)))
    return found


def scalars_table(panels: Sequence[Panel]) -> Table:
    """The numbers behind the figures over training, for the CSV file."""
    rows = []
    for panel in panels:
        for quantity in (*GUIDANCE, *CRITICS, *TRAINING, *others(panel)):
            for course in courses(panel, quantity):
                seen = np.isfinite(course.values)
                mean, low, high = mean_and_ends(course.values)
                for i, steps in enumerate(course.steps):
                    own = (mean[i], low[i], high[i], int(seen[:, i].sum()))
                    place = (panel.title, course.label, quantity.name)
                    rows.append((*place, round(steps), *map(_plain, own)))
    headings = ("task", "setting", "quantity", "control steps", "mean", "least")
    headings += ("greatest", "seeds")
    return Table("scalars", "Quantities over training", headings, rows)


def mean_and_ends(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns mean, least and greatest over runs, of `[runs, p]`; each has a number."""
    return np.nanmean(values, 0), np.nanmin(values, 0), np.nanmax(values, 0)


def _plain(value):
    return value if isinstance(value, int) else float(value)


def td_and_lambda(setting: Setting) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns TD error and lambda_t of each run, at the same points of training."""
    found = []
    for run in setting.runs:
        td, lam = run.curves.get(TD_ERROR), effective_lambda(run)
        if td is None or lam is None:
            continue
        steps = np.intersect1d(td.steps, lam.steps)
        x, y = (c.values[np.searchsorted(c.steps, steps)] for c in (td, lam))
        found.append((x, y))
    return found


def correlation_table(panel: Panel) -> Table:
    """How lambda_t goes with the TD error, setting by setting."""
    rows = []
    for setting in panel.settings:
        series = td_and_lambda(setting)
        if not series:
            continue
        constant = all(np.ptp(y) == 0 for _, y in series if len(y))
        found = Estimate(float("nan")) if constant else rank_correlation(series)
        points = sum(len(x) for x, _ in series)
        said = "λ_t is constant" if constant else ""
        if not constant and not np.isfinite(found.value):
            said = "fewer than 8 points"
        rows.append((setting.label, len(series), points, found, said))
    headings = ("setting", "seeds", "points", "rank correlation", "")
    note = (
        "Spearman's rank correlation of the points of each run, mean over seeds, with "
        "a 95 % bootstrap interval over seeds; of one seed by moving blocks of points. "
        "w falls with the TD error by its definition, so that a negative correlation "
        "shows how much the global part moves λ_t, not that the weight is right."
    )
    return Table("td_lambda", "TD error and λ_t", headings, rows, note)
