"""What an audit shows: a page of figures, two tables in the terminal, and its files."""

import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console
from rich.table import Table

from dynvgd_jax.audit.branch import FirstChunks, Outcomes, Plan, States
from dynvgd_jax.audit.measure import Estimate

PAGE, RESULTS = "audit.png", "audit.json"
STATES, CHUNKS, ROLLOUTS = "states.csv", "first_chunks.csv", "rollouts.csv"


class Played(NamedTuple):
    """All raw numbers of an audit."""

    plan: Plan
    states: States
    first: FirstChunks
    outcomes: Outcomes


def write_files(
    folder: Path, about: dict[str, Any], played: Played, found: dict[str, Any]
) -> None:
    """Writes the page, all findings and every raw number into `folder`.

    Args:
      folder: exists and is empty.
      about: what was audited and how, for `audit.json` and the page's title.
      played: the raw numbers.
      found: of `measure`.
    """
    plan, states, first, outcomes = played
    content = json.dumps({"about": about, "found": plain_tree(found)}, indent=2)
    (folder / RESULTS).write_text(content + "\n")
    _write_csv(
        folder / STATES,
        ("state", "episode_seed", "chunk_index", *_numbered("obs", states.obs)),
        (
            (s, states.episode_seed[s], states.chunk_index[s], *states.obs[s])
            for s in range(plan.states)
        ),
    )
    variants = plan.variants()
    critics = _numbered("q", first.q)
    actions = _numbered("action", first.chunk.reshape(*first.value.shape, -1))
    names = ("state", "chunk", "kind", "length")
    _write_csv(
        folder / CHUNKS,
        (*names, "moved", "weight", "value", *critics, *actions),
        (
            (s, k, *variants[v], first.moved[s, k, v], first.weight[s, k, v])
            + (first.value[s, k, v], *first.q[s, k, v], *first.chunk[s, k, v].ravel())
            for s, k, v in np.ndindex(first.value.shape)
        ),
    )
    _write_csv(
        folder / ROLLOUTS,
        (*names, "repeat", "return", "success_chunk", "length_chunks", "fault"),
        (
            (s, k, *variants[v], m, outcomes.discounted[s, k, v, m])
            + (int(outcomes.success[s, k, v, m]), outcomes.length[s, k, v, m])
            + (int(outcomes.fault[s, k, v, m]),)
            for s, k, v, m in np.ndindex(outcomes.discounted.shape)
        ),
    )
    figure = draw(about["title"], played, found)
    figure.savefig(folder / PAGE, dpi=110)
    plt.close(figure)


def plain_tree(tree: Any) -> Any:
    """Returns `tree` as JSON holds it: Estimates by name, NaN as null."""
    if isinstance(tree, Estimate):
        tree = tree._asdict()
    if isinstance(tree, dict):
        return {name: plain_tree(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [plain_tree(value) for value in tree]
    return None if isinstance(tree, float) and not np.isfinite(tree) else tree


def print_tables(found: dict[str, Any], console: Console | None = None) -> None:
    """Prints what the critics know, then what each move of a chunk brought."""
    console = console or Console()
    if not console.is_terminal:  # a file has no width to fit into
        console.width = 140
    console.print(critics_table(found))
    console.print(moves_table(found))


def critics_table(found: dict[str, Any]) -> Table:
    """Returns the table of the critics' knowledge; intervals are 95 % bootstrap."""
    table = Table(title="What the critics know", title_justify="left")
    table.add_column("what")
    table.add_column("found", justify="right")
    table.add_column("at best", justify="right")
    across, within = found["across_states"], found["within_states"]
    error, variance = found["calibration"], found["variance"]
    rows = [
        ("true return, mean", f"{found['true_return_mean']:.2f}", ""),
        ("Q, mean", f"{found['q_mean']:.2f}", f"{found['true_return_mean']:.2f}"),
        (
            "rank correlation Q, return: states",
            text(across["spearman"]),
            f"{across['ceiling']:.2f}",
        ),
        (
            "rank correlation Q, return: chunks of a state",
            text(within["spearman"]),
            f"{within['ceiling']:.2f}",
        ),
        (
            "share of a state's return variance due to the chunk",
            text(variance["chunk_share"], 3),
            "",
        ),
        ("bias of the ensemble's mean", text(error["bias"]), "0"),
        ("RMS error of the ensemble's mean", text(error["rms_error"]), "0"),
        ("the same without bias", text(error["centred_rms_error"]), "0"),
        (
            "RMS spread of the ensemble",
            f"{error['rms_spread']:.2f}",
            f"{error['rms_error'].value:.2f}",
        ),
        ("TD error of the run", f"{error['td_error']:.2f}", ""),
        (
            "rank correlation spread, |error|",
            text(error["spearman_spread_error"]),
            "1",
        ),
        ("rank correlation w, |error|", text(error["spearman_weight_error"]), "-1"),
        ("physics faults", str(found["faults"]), "0"),
    ]
    for row in rows:
        table.add_row(*row)
    return table


def moves_table(found: dict[str, Any]) -> Table:
    """Returns the table of moves; gains are over the plain chunk, same noise."""
    table = Table(title="What moving one chunk brought", title_justify="left")
    for heading in ("kind", "length", "moved", "gain by Q", "true gain"):
        table.add_column(heading, justify="left" if heading == "kind" else "right")
    for heading in ("beyond random", "success gain", "helped", "harmed"):
        table.add_column(heading, justify="right")
    for move in found["moves"]:
        guided = move["kind"] == "guided"
        table.add_row(
            move["kind"],
            "" if guided else f"{move['length']:g}",
            f"{move['moved']:.3f}",
            f"{move['predicted_gain'].value:.2f}",
            text(move["true_gain"]),
            text(move["over_random"]) if "over_random" in move else "",
            text(move["success_gain"], 3),
            f"{move['helped']:.2f}",
            f"{move['harmed']:.2f}",
        )
    return table


def text(estimate: Estimate, digits: int = 2) -> str:
    """Returns e.g. `0.31 [0.18, 0.44]`, `-` where there is no number."""
    if np.isnan(estimate.value):
        return "-"
    value, low, high = (f"{x:.{digits}f}" for x in estimate)
    return f"{value} [{low}, {high}]"


def draw(title: str, played: Played, found: dict[str, Any]) -> plt.Figure:
    """Returns the page: eight panels, explained in docs/audit.md."""
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
    return figure


def _draw_states(figure, axis, value, truth, states, across):
    dots = axis.scatter(
        truth.mean(1), value.mean(1), c=states.chunk_index, s=18, cmap="viridis"
    )
    figure.colorbar(dots, ax=axis, label="chunk of the episode")
    axis.axline((float(truth.mean()),) * 2, slope=1, color="grey", lw=0.8)
    axis.set_title(f"states: rank corr. {text(across['spearman'])}", fontsize=9)
    axis.set_xlabel(f"true return (best possible {across['ceiling']:.2f})")
    axis.set_ylabel("Q")


def _draw_chunks(axis, value, truth, within):
    x, y = (v - v.mean(1, keepdims=True) for v in (truth, value))
    axis.scatter(x, y, s=9, alpha=0.6)
    axis.axhline(0, color="grey", lw=0.8)
    axis.axvline(0, color="grey", lw=0.8)
    rho = text(within["spearman"])
    axis.set_title(f"chunks of a state: rank corr. {rho}", fontsize=9)
    axis.set_xlabel(f"return - state's mean (best possible {within['ceiling']:.2f})")
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


def _numbered(name: str, values: np.ndarray) -> list[str]:
    return [f"{name}{i}" for i in range(values.shape[-1])]


def _write_csv(path: Path, heading, rows) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(heading)
        writer.writerows(rows)
