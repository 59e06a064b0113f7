"""What an audit prints: what the critics know, and what moving a chunk brought."""

from typing import Any

import numpy as np
from rich.table import Table

from dynvgd_jax.audit.measure import Estimate
from dynvgd_jax.runs.terminal import print_table


def print_tables(found: dict[str, Any]) -> None:
    """Prints what the critics know, then what each move of a chunk brought."""
    print_table(critics_table(found))
    print_table(moves_table(found))


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
            text(across["ceiling"]),
        ),
        (
            "rank correlation Q, return: chunks of a state",
            text(within["spearman"]),
            text(within["ceiling"]),
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
            "rank correlation spread, |error without bias|",
            text(error["spearman_spread_error"]),
            "",
        ),
        (
            "rank correlation w, |error without bias|",
            text(error["spearman_weight_error"]),
            "",
        ),
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
