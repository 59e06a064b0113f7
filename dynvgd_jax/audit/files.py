"""What an audit leaves behind: the page, all findings, and every raw number."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from dynvgd_jax.audit.measure import Estimate
from dynvgd_jax.audit.page import draw_page
from dynvgd_jax.audit.records import Played

PAGE, RESULTS = "audit.png", "audit.json"
STATES, CHUNKS, ROLLOUTS = "states.csv", "first_chunks.csv", "rollouts.csv"


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
    draw_page(folder / PAGE, about["title"], played, found)


def plain_tree(tree: Any) -> Any:
    """Returns `tree` as JSON holds it: Estimates by name, NaN as null."""
    if isinstance(tree, Estimate):
        tree = tree._asdict()
    if isinstance(tree, dict):
        return {name: plain_tree(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [plain_tree(value) for value in tree]
    return None if isinstance(tree, float) and not np.isfinite(tree) else tree


def _numbered(name: str, values: np.ndarray) -> list[str]:
    return [f"{name}{i}" for i in range(values.shape[-1])]


def _write_csv(path: Path, heading, rows) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(heading)
        writer.writerows(rows)
