"""TensorBoard curves of a run, with the minutes that it had run at each point."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from tensorboard.backend.event_processing.event_file_loader import (
    LegacyEventFileLoader,
)

from dynvgd_jax.runs.metrics import event_files


class Curve(NamedTuple):
    """The points of one TensorBoard scalar, control steps rising."""

    steps: np.ndarray  # [n] int64, control steps over all environments
    minutes: np.ndarray  # [n] float64, since the run's start, pauses left out
    values: np.ndarray  # [n] float64

    def minutes_at(self, control_steps: int) -> float | None:
        """Returns the minutes of the point at exactly these steps, or None."""
        found = np.flatnonzero(self.steps == control_steps)
        return float(self.minutes[found[-1]]) if len(found) else None


def read_curves(folder: Path) -> dict[str, Curve]:
    """Returns every scalar of the run in `folder`, by name; empty where it has none.

    Each file is one session of the run: it begins with its start or its resumption, and
    what a resumed run does again was cut off the file before. So minutes go on where
    the last session's newest point was. A record cut off at the end is left out.
    """
    points: dict[str, dict[int, tuple[float, float]]] = {}
    before_s = 0.0
    for path in event_files(folder):
        start = newest = None
        for event in LegacyEventFileLoader(str(path)).Load():
            start = event.wall_time if start is None else start
            newest = event.wall_time
            minutes = (before_s + newest - start) / 60
            for value in event.summary.value:
                if value.WhichOneof("value") != "simple_value":
                    continue  # texts, bins
                own = points.setdefault(value.tag, {})
                own[event.step] = (minutes, value.simple_value)
        if start is not None:
            before_s += newest - start
    return {tag: _curve(own) for tag, own in sorted(points.items())}


def read_command(folder: Path) -> str:
    """Returns the command that began the run in `folder`, "" where it has none.

    It stands at the beginning of the first file (`runs.tensorboard.opening`).
    """
    for path in event_files(folder)[:1]:
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag.startswith("run/command"):
                    text = b"".join(value.tensor.string_val).decode("utf-8", "replace")
                    return text.strip("`\n")
                if value.WhichOneof("value") == "simple_value":
                    return ""  # of a version that wrote none: no need to read on
    return ""


def _curve(points: dict[int, tuple[float, float]]) -> Curve:
    steps = np.array(sorted(points), np.int64)
    minutes, values = np.array([points[int(step)] for step in steps], float).T
    return Curve(steps, minutes, values)


def binned(curves: list[Curve], bins: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Returns curves of several runs on common control steps.

    The control steps up to the last point are cut into `bins` equal parts; in each a
    run has the mean of its points. Parts in which no run has a point are left out.

    Args:
      curves: at least one, each with a point.
      bins: most points of the result.

    Returns: the mean control steps of each part's points [p] and the runs' values
      [runs, p], NaN where a run has no point there.
    """
    last = max(int(curve.steps[-1]) for curve in curves)
    width = max(last / bins, 1.0)
    total = np.zeros((len(curves), bins + 1))
    count, places = np.zeros_like(total), np.zeros_like(total)
    for i, curve in enumerate(curves):
        part = np.minimum((curve.steps / width).astype(int), bins)
        np.add.at(total[i], part, curve.values)
        np.add.at(places[i], part, curve.steps)
        np.add.at(count[i], part, 1)
    seen = count.any(axis=0)
    steps = places.sum(axis=0)[seen] / count.sum(axis=0)[seen]
    total, count = total[:, seen], count[:, seen]
    values = np.full(total.shape, np.nan)
    np.divide(total, count, out=values, where=count > 0)
    return steps, values
