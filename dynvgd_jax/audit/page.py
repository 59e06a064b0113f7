"""The audit's page of figures."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from dynvgd_jax.audit.records import Played
from dynvgd_jax.audit.tables import text


def draw_page(path: Path, title: str, played: Played, found: dict[str, Any]) -> None:
    """Writes the picture `path`: eight panels, explained in docs/audit.md."""
    _, states, first, outcomes = played
    figure, axes = plt.subplots(2, 4, figsize=(16, 7.5))
    value, truth = first.value[:, :, 0], outcomes.discounted[:, :, 0].mean(-1)
    _draw_states(figure, axes[0, 0], value, truth, states, found["across_states"])
    _draw_chunks(axes[0, 1], value, truth, found["within_states"])
    _draw_variance(axes[0, 2], found["variance"])
    _draw_gains(axes[0, 3], found["moves"])
    error = found["calibration"]
    _draw_bins(axes[1, 0], error["by_spread"], "ensemble's spread", identity=True)
    _draw_bins(axes[1, 1], error["by_weight"], "weight w", identity=False)
    _draw_predictions(axes[1, 2], found["moves"])
    _draw_shares(axes[1, 3], found["moves"])
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_states(figure, axis, value, truth, states, across):
    dots = axis.scatter(
        truth.mean(1), value.mean(1), c=states.chunk_index, s=18, cmap="viridis"
    )
    figure.colorbar(dots, ax=axis, label="chunk of the episode")
    axis.axline((float(truth.mean()),) * 2, slope=1, color="grey", lw=0.8)
    axis.set_title(f"states: rank corr. {text(across['spearman'])}", fontsize=9)
    axis.set_xlabel(f"true return (at best {text(across['ceiling'])})")
    axis.set_ylabel("Q")


def _draw_chunks(axis, value, truth, within):
    x, y = (v - v.mean(1, keepdims=True) for v in (truth, value))
    axis.scatter(x, y, s=9, alpha=0.6)
    axis.axhline(0, color="grey", lw=0.8)
    axis.axvline(0, color="grey", lw=0.8)
    rho = text(within["spearman"])
    axis.set_title(f"chunks of a state: rank corr. {rho}", fontsize=9)
    axis.set_xlabel(f"return - state's mean (at best {text(within['ceiling'])})")
    axis.set_ylabel("Q - state's mean")


def _draw_variance(axis, variance):
    names = ("state", "chunk", "continuation")
    parts = np.array([max(0.0, variance[name]) for name in names])
    total = parts.sum() or 1.0
    axis.bar(names, parts / total, color=("tab:blue", "tab:orange", "tab:grey"))
    axis.set_ylim(0, 1)
    axis.set_title("what decides the return: share of variance", fontsize=9)
    axis.set_xlabel(f"chunk within a state: {text(variance['chunk_share'], 3)}")


def _draw_bins(axis, bins, name, identity):
    x = [b["mean"] for b in bins]
    axis.plot(x, [b["rms_error"] for b in bins], "o-", label="RMS error")
    axis.plot(x, [b["centred_rms_error"] for b in bins], "s--", label="without bias")
    if identity:
        axis.axline((0, 0), slope=1, color="grey", lw=0.8, label="calibrated")
    axis.set_ylim(bottom=0)
    axis.set_xlabel(name)
    axis.set_title(f"true error by {name}", fontsize=9)
    axis.legend(fontsize=7)


def _by_kind(moves):
    for kind, colour in (("gradient", "tab:green"), ("random", "tab:grey")):
        yield kind, colour, [move for move in moves if move["kind"] == kind]


def _draw_gains(axis, moves):
    for kind, colour, rows in _by_kind(moves):
        _error_bars(axis, rows, "moved", "true_gain", colour, f"{kind} direction")
    guided = [move for move in moves if move["kind"] == "guided"]
    _error_bars(axis, guided, "moved", "true_gain", "tab:red", "guided decode")
    axis.axhline(0, color="black", lw=0.8)
    axis.set_xlim(left=0)
    axis.set_title("true gain in return of moving one chunk", fontsize=9)
    axis.set_xlabel("distance moved, norm over the chunk")
    axis.legend(fontsize=7)


def _draw_predictions(axis, moves):
    for kind, colour, rows in _by_kind(moves):
        x = [move["predicted_gain"].value for move in rows]
        y = [move["true_gain"].value for move in rows]
        axis.plot(x, y, "o-", color=colour, label=f"{kind} direction")
    axis.axline((0, 0), slope=1, color="black", lw=0.8, label="as promised")
    axis.set_title("true gain beside the gain that Q promises", fontsize=9)
    axis.set_xlabel("gain by Q")
    axis.set_ylabel("true gain")
    axis.legend(fontsize=7)


def _draw_shares(axis, moves):
    for kind, colour, rows in _by_kind(moves):
        x = [move["length"] for move in rows]
        axis.plot(x, [m["helped"] for m in rows], "o-", color=colour, label=f"{kind} +")
        axis.plot(x, [m["harmed"] for m in rows], "x:", color=colour, label=f"{kind} -")
    axis.set_ylim(0, 1)
    axis.set_title("share of chunks helped (+) and harmed (-)", fontsize=9)
    axis.set_xlabel("length of the move")
    axis.legend(fontsize=7)


def _error_bars(axis, rows, x, y, colour, label):
    estimates = [row[y] for row in rows]
    value = np.array([e.value for e in estimates])
    spans = np.array([[e.value - e.low, e.high - e.value] for e in estimates]).T
    places = [row[x] for row in rows]
    axis.errorbar(places, value, spans, fmt="o-", color=colour, label=label, capsize=3)
