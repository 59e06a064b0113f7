"""Draws runs and prints their success: with intervals, beside lambda, w, Q, TD error.

  python -m examples.plot_runs runs/can_ddim8-quick-seeds0-2 runs/can_vgd \
      --labels "dynamic VGD" VGD --output=can.png

A run is a folder of launch.py; one of several seeds is drawn as their mean, with a 95 %
t interval over seeds and a small cross for each (one seed: 95 % Wilson interval over
episodes). Each task has a row, in which its runs lie over each other. The printed table
has the same numbers, those of each seed, and the difference from the first run of the
task, episode by episode, with a 95 % bootstrap interval over episodes.
"""

import argparse
import csv
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import EngFormatter
from rich.table import Table
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dynvgd_jax.core.command_line import expand
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.runs.metrics import EPISODES_FILE
from dynvgd_jax.runs.report import episodes_text, print_table, t_interval, wilson
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
    """Returns policy -> {control steps: {seed of the episode: outcome}}."""
    rows = defaultdict(lambda: defaultdict(dict))
    if not (folder / EPISODES_FILE).exists():
        raise UserError(f"{folder} holds no {EPISODES_FILE}: nothing is evaluated yet")
    with open(folder / EPISODES_FILE, newline="") as file:
        for row in csv.DictReader(file):
            steps = int(row["control_steps"])
            rows[row["policy"]][steps][row["seed"]] = int(row["success_chunk"])
    return rows


class Point(NamedTuple):
    """One evaluation of a run, all seeds together."""

    policy: str
    control_steps: int
    mean: float
    low: float
    high: float
    each: list[float]  # success of each seed
    by_episode: dict[str, float]  # mean over seeds, by the episode's seed


def points_of(run):
    """Returns the evaluations that all seeds of a run have, in order."""
    seeds = [evaluations(folder) for folder in run.folders]
    return [
        make_point(policy, steps, [own[policy][steps] for own in seeds])
        for policy in seeds[0]
        for steps in sorted(seeds[0][policy])
        if all(steps in own[policy] for own in seeds)
    ]


def make_point(policy, control_steps, outcomes):
    """Returns the Point of each seed's outcomes, `{seed of the episode: 0 or 1}`."""
    each = [statistics.fmean(own.values()) for own in outcomes]
    if all(own == outcomes[0] for own in outcomes):  # one seed, or the base policy
        low, high = wilson(sum(outcomes[0].values()), len(outcomes[0]))
    else:
        low, high = t_interval(each)
    by_episode = {
        episode: statistics.fmean(own[episode] for own in outcomes)
        for episode in outcomes[0]
        if all(episode in own for own in outcomes)
    }
    mean = statistics.fmean(each)
    return Point(policy, control_steps, mean, low, high, each, by_episode)


def difference(point, other):
    """Mean difference over the episodes of both, with its interval; "" without any."""
    both = point.by_episode.keys() & other.by_episode.keys()
    if not both:
        return ""
    pairs = [point.by_episode[e] - other.by_episode[e] for e in sorted(both)]
    return episodes_text(np.array(pairs))


def success_table(runs):
    """Returns the table of all evaluations of one task's runs."""
    table = Table(title=f"{runs[0].task}: success of a whole chunk")
    headings = ("run", "policy and start noise", "control steps", "success")
    for heading in (*headings, "of each seed", "beyond the first run"):
        table.add_column(heading)
    first = {p.control_steps: p for p in points_of(runs[0]) if p.control_steps}
    for i, run in enumerate(runs):
        for point in points_of(run):
            other = first.get(point.control_steps) if i else None
            table.add_row(
                run.label,
                point.policy,
                f"{point.control_steps:,}",
                f"{point.mean:.3f} [{point.low:.3f}, {point.high:.3f}]",
                ", ".join(f"{x:.3f}" for x in point.each),
                difference(point, other) if other else "",
            )
    return table


def draw_success(axis, run, color):
    """Success of the steered policy, and of the base policy as horizontal lines."""
    points = points_of(run)
    for policy in dict.fromkeys(point.policy for point in points):
        own = [point for point in points if point.policy == policy]
        steps = [point.control_steps for point in own]
        mean, low, high = np.array([(p.mean, p.low, p.high) for p in own]).T
        if policy in BASE_STYLES:
            # Equal in all runs of a task: no training, equal episodes.
            if policy not in axis.get_legend_handles_labels()[1]:
                axis.axhline(mean[0], ls=BASE_STYLES[policy], c="gray", label=policy)
            continue
        axis.errorbar(
            steps, mean, (mean - low, high - mean), fmt="o-", c=color, capsize=3,
            label=run.label,
        )  # fmt: skip
        if len(run.folders) > 1:
            for each in zip(*(point.each for point in own), strict=True):
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
    """Reads the command line, writes the picture and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=expand)
    parser.add_argument("--labels", nargs="+", default=[], help="of the runs, in order")
    parser.add_argument("--output", type=expand, default=Path("runs.png"))
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
        print_table(success_table(runs))
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
