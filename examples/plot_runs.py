"""Draws runs side by side: success with intervals, Q, TD error, and guidance weight.

  python examples/plot_runs.py runs/can_ddim8-quick-seed0 --output=docs/quick_runs.png

Needs matplotlib and tensorboard (requirements-dev.txt). A row is a run.
"""

import argparse
import csv
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import EngFormatter
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dynvgd_jax.runs.metrics import EPISODES_FILE
from dynvgd_jax.runs.report import wilson
from dynvgd_jax.runs.settings import read_config


def evaluations(folder):
    """Returns policy -> list of (control steps, successes, episodes)."""
    rows = defaultdict(lambda: defaultdict(list))
    with open(folder / EPISODES_FILE, newline="") as file:
        for row in csv.DictReader(file):
            steps = int(row["control_steps"])
            rows[row["policy"]][steps].append(int(row["success_chunk"]))
    return {
        policy: [(steps, sum(wins), len(wins)) for steps, wins in sorted(found.items())]
        for policy, found in rows.items()
    }


def curve(events, tag):
    """Returns control steps and values of one TensorBoard curve."""
    points = events.Scalars(tag)
    return [p.step for p in points], [p.value for p in points]


def draw_success(axis, folder):
    """Success of every evaluated policy, with 95 % Wilson intervals."""
    for policy, points in evaluations(folder).items():
        steps, rates, low, high = [], [], [], []
        for step, wins, n in points:
            bounds = wilson(wins, n)
            steps.append(step)
            rates.append(wins / n)
            low.append(wins / n - bounds[0])
            high.append(bounds[1] - wins / n)
        style = "o-" if len(steps) > 1 or not policy.startswith("base/") else "s"
        axis.errorbar(
            steps, rates, np.array([low, high]), fmt=style, label=policy, capsize=3
        )
    axis.set_ylim(0, 1)
    axis.set_ylabel("success (whole chunk)")
    axis.legend(fontsize=7, loc="lower right")


def main():
    """Reads the command line and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, default=Path("runs.png"))
    options = parser.parse_args()
    figure, axes = plt.subplots(
        len(options.runs), 4, figsize=(14, 3 * len(options.runs)), squeeze=False
    )
    for row, folder in zip(axes, options.runs, strict=True):
        config = read_config(folder)
        events = EventAccumulator(str(folder))
        events.Reload()
        row[0].set_title(f"{config.task}, DDIM {config.ddim_steps}, seed {config.seed}")
        draw_success(row[0], folder)
        for i in range(config.critic.num):
            row[1].plot(*curve(events, f"train/q{i}_mean"), label=f"Q{i + 1}")
        row[1].set_title("mean Q of each critic")
        row[2].plot(*curve(events, "train/td_error_mean"))
        row[2].set_title("TD error |Q - y|")
        row[2].set_ylim(bottom=0)
        row[3].plot(*curve(events, "guide/weight_mean"))
        row[3].set_title("guidance weight w")
        row[3].set_ylim(0, 1)
        for axis in row:
            axis.set_xlabel("control steps")
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    figure.tight_layout()
    figure.savefig(options.output, dpi=110)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
