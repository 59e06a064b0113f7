"""Draws runs: success with intervals, the guidance's size and weight, Q, TD error.

  python examples/plot_runs.py runs/can_ddim8-quick-seeds0-2 runs/can_vgd \
      --labels "dynamic VGD" VGD --output=can.png

A run is a folder of launch.py; one of several seeds is drawn as their mean, with a 95 %
t interval over seeds and a small cross for each (one seed: 95 % Wilson interval over
episodes). Each task has a row, in which its runs lie over each other.
"""

import argparse
import csv
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import EngFormatter
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dynvgd_jax.errors import UserError
from dynvgd_jax.runs.metrics import EPISODES_FILE
from dynvgd_jax.runs.report import t_interval, wilson
from dynvgd_jax.runs.settings import CONFIG_FILE, read_config

BASE_STYLES = {"base/tanh_randn": "--", "base/randn": ":"}


class Run(NamedTuple):
    """The seeds of one setting."""

    label: str
    task: str
    folders: list[Path]


def find_run(folder, label):
    """Returns the run in `folder`, whose seeds may lie in folders of their own."""
    folders = [folder]
    if not (folder / CONFIG_FILE).exists():
        found = (path for path in folder.glob("seed*") if path.name[4:].isdecimal())
        folders = sorted(found, key=lambda path: int(path.name[4:])) or [folder]
    config = read_config(folders[0])
    seeds = f"{len(folders)} seeds" if len(folders) > 1 else f"seed {config.seed}"
    label = label or folder.name
    title = f"{config.task}, DDIM {config.ddim_steps}"
    return Run(f"{label} ({seeds})", title, folders)


def evaluations(folder):
    """Returns policy -> {control steps: outcomes of the episodes}."""
    rows = defaultdict(lambda: defaultdict(list))
    if not (folder / EPISODES_FILE).exists():
        raise UserError(f"{folder} holds no {EPISODES_FILE}: nothing is evaluated yet")
    with open(folder / EPISODES_FILE, newline="") as file:
        for row in csv.DictReader(file):
            steps = int(row["control_steps"])
            rows[row["policy"]][steps].append(int(row["success_chunk"]))
    return rows


def rate(outcomes):
    """Mean success and its interval, from the outcomes of each seed's episodes."""
    rates = [statistics.fmean(own) for own in outcomes]
    if len(rates) == 1:
        return rates[0], *wilson(sum(outcomes[0]), len(outcomes[0]))
    return statistics.fmean(rates), *t_interval(rates)


def draw_success(axis, run, color):
    """Success of the steered policy, and of the base policy as horizontal lines."""
    seeds = [evaluations(folder) for folder in run.folders]
    for policy in seeds[0]:
        points = [
            (steps, *rate([own[policy][steps] for own in seeds]))
            for steps in sorted(seeds[0][policy])
            if all(steps in own[policy] for own in seeds)
        ]
        if not points:  # a seed is not that far yet
            continue
        steps, mean, low, high = map(np.array, zip(*points, strict=True))
        if policy in BASE_STYLES:
            # Equal in all runs of a task: no training, equal episodes.
            if policy not in axis.get_legend_handles_labels()[1]:
                axis.axhline(mean[0], ls=BASE_STYLES[policy], c="gray", label=policy)
            continue
        axis.errorbar(
            steps, mean, (mean - low, high - mean), fmt="o-", c=color, capsize=3,
            label=run.label,
        )  # fmt: skip
        if len(seeds) > 1:
            for own in seeds:
                each = [statistics.fmean(own[policy][step]) for step in steps]
                axis.plot(steps, each, "x", c=color, ms=4, alpha=0.7)


def read_events(folder):
    """Returns the TensorBoard curves in `folder`, all points of them."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return events


def curves(seeds_events, tag):
    """Returns control steps and each seed's values of one TensorBoard curve."""
    if any(tag not in events.Tags()["scalars"] for events in seeds_events):
        return None
    seeds = [{p.step: p.value for p in events.Scalars(tag)} for events in seeds_events]
    steps = sorted(set.intersection(*map(set, seeds)))
    return np.array(steps), np.array([[own[s] for s in steps] for own in seeds])


def draw_mean(axis, seeds_events, color, tag):
    """The mean over seeds, shaded from the least to the greatest."""
    found = curves(seeds_events, tag)
    if found is None:
        return
    steps, values = found
    axis.plot(steps, values.mean(axis=0), c=color)
    if len(values) > 1:
        axis.fill_between(steps, values.min(0), values.max(0), color=color, alpha=0.2)
    if values.min() >= 0:  # from 0 to above the highest of all runs
        axis.set_ylim(0, max(1.1 * values.max(), axis.get_ylim()[1]))


SCALARS = {
    "guide/lambda_mean": "lambda_t, before w",
    "guide/weight_mean": "guidance weight w",
    "train/td_error_mean": "TD error |Q - y|",
    "train/q0_mean": "mean Q of the first critic",
}


def main():
    """Reads the command line and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--labels", nargs="+", default=[], help="of the runs, in order")
    parser.add_argument("--output", type=Path, default=Path("runs.png"))
    options = parser.parse_args()
    if options.labels and len(options.labels) != len(options.runs):
        parser.error(f"{len(options.labels)} labels for {len(options.runs)} runs")
    labels = options.labels or [None] * len(options.runs)
    tasks = defaultdict(list)
    for folder, label in zip(options.runs, labels, strict=True):
        run = find_run(folder, label)
        tasks[run.task].append(run)
    size = (len(tasks), 1 + len(SCALARS))
    figure, axes = plt.subplots(*size, figsize=(16, 3.2 * len(tasks)), squeeze=False)
    for row, (task, runs) in zip(axes, tasks.items(), strict=True):
        row[0].set_title(f"{task}: success (whole chunk)")
        row[0].set_ylim(0, 1)
        for i, run in enumerate(runs):
            draw_success(row[0], run, f"C{i}")
            seeds_events = [read_events(folder) for folder in run.folders]
            for axis, (tag, title) in zip(row[1:], SCALARS.items(), strict=True):
                axis.set_title(title)
                draw_mean(axis, seeds_events, f"C{i}", tag)
        row[0].legend(fontsize=7, loc="lower right")
        for axis in row:
            axis.set_xlabel("control steps")
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    figure.tight_layout()
    figure.savefig(options.output, dpi=110)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"plot_runs.py: {error}", file=sys.stderr)
        sys.exit(2)
