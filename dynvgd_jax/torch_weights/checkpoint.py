"""What a DPPO checkpoint file holds, sorted by prefix."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.torch_weights.critics import POLICY_MEMBER
from dynvgd_jax.torch_weights.files import holds_member, load_torch, to_numpy

COMPILED = "_orig_mod."
PRETRAINED, FINE_TUNED = "pre-training", "fine-tuning"
# Parts of a fine-tuning file that sampling does not need.
_UNUSED = ("critic", "network", "eta")


class Checkpoint(NamedTuple):
    """The networks of one file; keys without their prefix."""

    path: Path
    layout: str  # PRETRAINED or FINE_TUNED
    weights: str  # "ema" or "model", where the tensors come from
    base: dict[str, np.ndarray]
    fine_tuned: dict[str, np.ndarray] | None  # of a FINE_TUNED file
    unused: dict[str, int]  # prefix -> number of tensors left aside


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
    found = [n for n in ("ema", "model") if _is_mapping(content, n)]
    if not found:
        raise UserError(
            f"{path} fits no known layout: expected a dict with 'model' and, from "
            f"pre-training, 'ema'; found {_describe(content)}"
        )
    chosen = weights or found[0]
    if chosen not in found:
        raise UserError(
            f"{path} holds no {chosen!r} weights, found {', '.join(found)}; "
            f"give --weights={found[0]}"
        )
    tensors = _plain_keys(path, content[chosen])
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
    )


def _is_mapping(content, name: str) -> bool:
    return isinstance(content, Mapping) and isinstance(content.get(name), Mapping)


def _plain_keys(path: Path, tensors: Mapping) -> dict:
    """Keys as they are without torch.compile."""
    plain = {}
    for key, tensor in tensors.items():
        name = str(key).replace(COMPILED, "")
        if name in plain:
            raise UserError(f"{path}: two tensors are named {name}; save it again")
        plain[name] = tensor
    return plain


def _describe(content) -> str:
    if not isinstance(content, Mapping):
        return type(content).__name__
    return ", ".join(str(key) for key in list(content)[:6]) or "an empty dict"
