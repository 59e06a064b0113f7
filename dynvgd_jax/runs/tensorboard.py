"""What TensorBoard shows beside scalars: arranged charts, the run in words, bins."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from dynvgd_jax.core.fields import flat
from dynvgd_jax.core.scores import judged_by_return
from dynvgd_jax.runs.tensorboardx import FileWriter, Summary, summary

BINS = 30  # of a histogram

# Charts of the tab "Custom Scalars" by group: title -> scalars, as regular expressions.
TRAIN_CHARTS = {
    "Success": {
        "evaluation, steered and base": (
            r"^eval/success_rate$",
            r"^eval_base/[^/]+/success_rate$",
        ),
        "training, recent episodes": (r"^train/success_rate$",),
        "mean return": (r"^eval/reward$", r"^train/ep_rew_mean$"),
    },
    "Guidance": {
        "lambda": (r"^guide/lambda_(base|mean)$",),
        "weight w": (r"^guide/weight_mean$",),
        "moved by (normalised action units)": (r"^guide/delta_norm$",),
        "gained by Q: a step, the choice": (r"^guide/(delta_q|candidate_gain)$",),
    },
    "Critics": {
        "Q": (r"^train/q\d+_mean$",),
        "disagreement (deviation between critics)": (r"^train/q_std_inter_critic$",),
        "TD error": (r"^train/td_error_mean$",),
        "loss": (r"^train/critic_loss$",),
        "gradient norm": (r"^train/critic_grad_norm$",),
    },
    "Actor (DSRL) or editor (edit)": {
        "loss": (r"^train/actor_loss$", r"^train/noise_critic_loss$"),
        "entropy coefficient": (r"^train/entropy_coef$",),
        "log-probability": (r"^train/log_prob$",),
        "start noise, edit: norm": (r"^guide/noise_norm$", r"^train/edit_length$"),
        "edits: gain by Q, share": (r"^guide/edit_gain$", r"^guide/edited_share$"),
    },
    "Speed": {
        "control steps per second": (r"^time/control_steps_per_s$",),
        "share of time": (r"^time/.*_share$",),
        "time line of a vector step, ms": (r"^time/.*_ms$",),
    },
}
# In place of "Success", of tasks that are judged by return.
RETURN_CHARTS = {
    "return: evaluation, steered and base": (
        r"^eval/return$",
        r"^eval_base/[^/]+/return$",
    ),
    "normalised score": (
        r"^eval/normalized_score$",
        r"^eval_base/[^/]+/normalized_score$",
    ),
    "training, recent episodes": (r"^train/ep_rew_mean$",),
}
PRETRAIN_CHARTS = {"Pre-training": {"loss": (r"^pretrain/.*loss$",)}}
CHARTS = {"train": TRAIN_CHARTS, "pretrain": PRETRAIN_CHARTS}
# What runs are compared by in the tab "HParams".
METRICS = {"train": ("eval/success_rate",), "pretrain": ("pretrain/validation_loss",)}


def opening(
    config: ConfigDict, command: str, versions: Mapping[str, str]
) -> list[Summary]:
    """Returns what a run's first event file begins with.

    Args:
      config: of the run.
      command: that started it.
      versions: of program and libraries, by name.
    """
    groups, metrics = CHARTS[config.job], METRICS[config.job]
    if config.job == "train" and judged_by_return(config.task):
        rest = {name: of for name, of in groups.items() if name != "Success"}
        groups, metrics = {"Return": RETURN_CHARTS} | rest, ("eval/return",)
    charts = {
        group: {title: ("Multiline", list(tags)) for title, tags in of_group.items()}
        for group, of_group in groups.items()
    }
    values = {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in flat(config).items()
    }
    rows = "".join(f"| {name} | {version} |\n" for name, version in versions.items())
    as_json = json.dumps(config.to_dict(), indent=2, sort_keys=True)
    return [
        summary.custom_scalars(charts),
        # the third would say that the run has ended well
        *summary.hparams(values, dict.fromkeys(metrics))[:2],
        summary.text("run/command", f"```\n{command}\n```"),
        summary.text("run/configuration", f"```json\n{as_json}\n```"),
        summary.text("run/versions", f"| | version |\n|---|---|\n{rows}"),
    ]


def histogram(name: str, values: Sequence[float]) -> Summary:
    """Returns the distribution of the finite `values`, in 30 bins where they differ."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    least, greatest = (values.min(), values.max()) if len(values) else (0.0, 0.0)
    edges = np.linspace(least, greatest, BINS + 1)
    if not (np.diff(edges) > 0).all():  # alike, up to rounding
        margin = max(abs(least), abs(greatest), 1.0) * 1e-3
        edges = np.array([least - margin, greatest + margin])
    return summary.histogram(name, values, bins=edges)


def write_images(folder: Path, step: int, images: Mapping[str, bytes]) -> None:
    """Writes an event file with encoded pictures (PNG, or GIF that moves) by tag.

    Args:
      folder: where to.
      step: control steps of training behind what they show.
      images: tag -> the picture's file.
    """
    writer = FileWriter(str(folder))
    for tag, content in images.items():
        image = Summary.Image(encoded_image_string=content)
        writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
    writer.close()
