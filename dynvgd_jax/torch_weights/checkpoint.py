"""What a DPPO checkpoint file holds, sorted by prefix."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.torch_weights.critics import POLICY_MEMBER
from dynvgd_jax.torch_weights.facts import check_carried
from dynvgd_jax.torch_weights.files import (
    holds_member,
    load_torch,
    note_of_types,
    plain_keys,
    to_numpy,
)

PRETRAINED, FINE_TUNED = "pre-training", "fine-tuning"
# Parts of a fine-tuning file that sampling does not need.
_UNUSED = ("critic", "network", "eta")
# Keys of a file under which a state_dict may stand, the first one first.
_PARTS = ("ema", "model", "state_dict", "model_state_dict")
# Parts of the network itself, for a file that holds nothing but it.
_NETWORK_PARTS = {"time_embedding", "cond_mlp", "mlp_mean"}


class Checkpoint(NamedTuple):
    """The networks of one file; keys without their prefix."""

    path: Path
    layout: str  # PRETRAINED or FINE_TUNED
    weights: str  # "ema" or "model", where the tensors come from; "" of a flat file
    base: dict[str, np.ndarray]
    fine_tuned: dict[str, np.ndarray] | None  # of a FINE_TUNED file
    unused: dict[str, int]  # prefix -> number of tensors left aside
    carried: dict[str, Any]  # what one of our own files says about itself, see facts
    notes: list[str]  # what a user should know, one line each


def read_checkpoint(path: str | Path, weights: str | None = None) -> Checkpoint:
    """Reads a DPPO file; `weights` None takes "ema" where there is one.

    Raises:
      UserError: the file is unfit, has no such weights, or its keys fit no layout.
    """
    path = Path(path)
    if holds_member(path, POLICY_MEMBER):
        raise UserError(
            f"{path} holds {POLICY_MEMBER}, expected a file of DPPO; this is a "
            "Stable-Baselines3 save: give it to --critic"
        )
    content = load_torch(path)
    chosen, state = _choose(path, content, weights)
    tensors = plain_keys(path, state)
    if tensors and {key.partition(".")[0] for key in tensors} <= _NETWORK_PARTS:
        tensors = {f"network.{key}": tensor for key, tensor in tensors.items()}
    groups: dict[str, dict] = {}
    for key, tensor in tensors.items():
        prefix, _, rest = key.partition(".")
        groups.setdefault(prefix, {})[rest] = tensor
    fine = not {"actor", "actor_ft"}.isdisjoint(groups)
    wanted = ("actor", "actor_ft") if fine else ("network",)
    missing = [f"{prefix}.*" for prefix in wanted if prefix not in groups]
    allowed = (*wanted, *_UNUSED) if fine else wanted
    surplus = [
        f"{prefix}.{rest}" if rest else prefix
        for prefix, group in groups.items()
        if prefix not in allowed
        for rest in group
    ]
    if missing or surplus:
        parts = (("missing", missing), ("left over", surplus))
        text = "; ".join(f"{name}: {', '.join(keys)}" for name, keys in parts if keys)
        raise UserError(f"{path} fits no known layout; keys {text}")
    networks = [
        {rest: to_numpy(path, f"{prefix}.{rest}", t) for rest, t in group.items()}
        for prefix, group in ((p, groups[p]) for p in wanted)
    ]
    return Checkpoint(
        path=path,
        layout=FINE_TUNED if fine else PRETRAINED,
        weights=chosen,
        base=networks[0],
        fine_tuned=networks[1] if fine else None,
        unused={p: len(g) for p, g in groups.items() if p not in wanted},
        carried=check_carried(path, content),
        notes=note_of_types(path, tensors),
    )


def _choose(path: Path, content: Any, weights: str | None) -> tuple[str, Mapping]:
    """Returns the name of the weights and their state_dict; "" is a flat file's."""
    found = [n for n in _PARTS if _is_mapping(content, n)]
    if not found and _is_state(content):
        if weights:
            raise UserError(f"{path} is one state_dict by itself; drop --weights")
        return "", content
    if not found:
        raise UserError(
            f"{path} fits no known layout: expected a dict with 'model' and, from "
            f"pre-training, 'ema', or a state_dict; found {_describe(content)}"
        )
    chosen = weights or found[0]
    if chosen not in found:
        raise UserError(
            f"{path} holds no {chosen!r} weights, found {', '.join(found)}; "
            + (f"give --weights={found[0]}" if found[0] in _PARTS[:2] else "drop it")
        )
    return chosen, content[chosen]


def _is_mapping(content: Any, name: str) -> bool:
    return isinstance(content, Mapping) and isinstance(content.get(name), Mapping)


def _is_state(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(value, torch.Tensor) for value in content.values())
    )


def _describe(content) -> str:
    if not isinstance(content, Mapping):
        return type(content).__name__
    return ", ".join(str(key) for key in list(content)[:6]) or "an empty dict"
