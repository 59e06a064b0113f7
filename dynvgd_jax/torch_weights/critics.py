"""Critics of a Stable-Baselines3 save (VGD, Dynamic VGD): torch tensors to Flax trees.

A save is a zip; `policy.pth` in it holds the state of `critic` and `critic_target`,
`critic.optimizer.pth` Adam's moments. A critic is an `nn.Sequential` of Linear,
LayerNorm, Tanh for each hidden layer, then Linear(1).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import COUNT_END
from dynvgd_jax.steering.critics.mlp import CriticEnsemble
from dynvgd_jax.torch_weights.files import (
    load_torch_bytes,
    member_advice,
    note_of_types,
    plain_keys,
    read_members,
    to_numpy,
)
from dynvgd_jax.torch_weights.layouts import fill_leaf, require_keys

POLICY_MEMBER, OPTIMIZER_MEMBER = "policy.pth", "critic.optimizer.pth"
CURRENT, TARGET = "critic", "critic_target"
_FIRST_LAYER = re.compile(r"qf(\d+)\.(\d+)\.weight")
# torch.optim.Adam's options that td.make_optimizer has, and their values there.
ADAM = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False}
_DO_WITHOUT = f"remove {OPTIMIZER_MEMBER} from the zip to do without"

Arrays = Mapping[str, np.ndarray]


class SavedCritics(NamedTuple):
    """What a save holds of the critics; keys without their prefix."""

    path: Path
    ensemble: CriticEnsemble
    in_dim: int  # Do + Ta * Da
    current: dict[str, np.ndarray]  # torch key -> array
    target: dict[str, np.ndarray]
    moments: "Moments | None"  # where the file has them
    unused: dict[str, int]  # prefix -> number of tensors left aside
    notes: list[str]  # what a user should know, one line each


class Moments(NamedTuple):
    """Adam's state; torch and optax define it alike."""

    mean: dict[str, np.ndarray]  # torch key -> exp_avg, optax's mu
    square: dict[str, np.ndarray]  # torch key -> exp_avg_sq, optax's nu
    count: int  # gradient steps so far, torch's step
    learning_rate: float


def read_critics(path: str | Path) -> SavedCritics:
    """Reads a save.

    Raises:
      UserError: the file is unfit, or its critics are others than described above;
        keys that are missing or left over are named.
    """
    path = Path(path)
    members = read_members(path, (POLICY_MEMBER, OPTIMIZER_MEMBER))
    if POLICY_MEMBER not in members:
        raise UserError(
            f"{path} holds no {POLICY_MEMBER}, expected a Stable-Baselines3 save"
        )
    source = f"{path}/{POLICY_MEMBER}"
    remedy = member_advice(path, POLICY_MEMBER)
    state = load_torch_bytes(source, members[POLICY_MEMBER], remedy)
    if not isinstance(state, Mapping):
        raise UserError(f"{source} holds {type(state).__name__}, expected a dict")
    state = plain_keys(source, state)
    groups = _read_groups(source, state)
    current, target = groups.pop(CURRENT), groups.pop(TARGET)
    ensemble, in_dim = infer_ensemble(source, current)
    for arrays, prefix in ((current, CURRENT), (target, TARGET)):
        to_flax(f"{source}: {prefix}", ensemble, in_dim, arrays)
    moments = None
    if OPTIMIZER_MEMBER in members:
        name = f"{path}/{OPTIMIZER_MEMBER}"
        content = load_torch_bytes(name, members[OPTIMIZER_MEMBER], _DO_WITHOUT)
        moments = _read_moments(name, content, ensemble, current)
    unused = {prefix: len(group) for prefix, group in groups.items()}
    notes = note_of_types(source, state)
    return SavedCritics(path, ensemble, in_dim, current, target, moments, unused, notes)


def infer_ensemble(source: str, arrays: Arrays) -> tuple[CriticEnsemble, int]:
    """Returns the module whose parameters these tensors are, and its input's size.

    Raises:
      UserError: there is no critic of the layout.
    """
    found = [match for key in arrays if (match := _FIRST_LAYER.fullmatch(key))]
    # Of a LayerNorm the weight has one axis.
    depth = sum(m[1] == "0" and arrays[m[0]].ndim == 2 for m in found) - 1
    first = arrays.get("qf0.0.weight")
    if first is None or first.ndim != 2 or 0 in first.shape or depth < 1:
        raise UserError(
            f"{source} holds no critics: expected qf0.0.weight, qf0.1.weight and so on "
            f"(Linear, LayerNorm, Tanh), found {', '.join(list(arrays)[:6]) or 'none'}"
        )
    num, (width, in_dim) = len({m[1] for m in found}), first.shape
    return CriticEnsemble(num=num, width=width, depth=depth), in_dim


def key_table(ensemble: CriticEnsemble) -> dict[str, tuple[int, str, str]]:
    """Returns torch key -> (critic, Flax layer, leaf), in PyTorch's own order."""
    table = {}
    for i in range(ensemble.num):
        for layer in range(ensemble.depth):
            linear, norm = f"qf{i}.{3 * layer}", f"qf{i}.{3 * layer + 1}"
            table[f"{linear}.weight"] = (i, f"hidden_{layer}", "kernel")
            table[f"{linear}.bias"] = (i, f"hidden_{layer}", "bias")
            table[f"{norm}.weight"] = (i, f"norm_{layer}", "scale")
            table[f"{norm}.bias"] = (i, f"norm_{layer}", "bias")
        table[f"qf{i}.{3 * ensemble.depth}.weight"] = (i, "out", "kernel")
        table[f"qf{i}.{3 * ensemble.depth}.bias"] = (i, "out", "bias")
    return table


def to_flax(
    source: str, ensemble: CriticEnsemble, in_dim: int, arrays: Arrays
) -> dict[str, Any]:
    """Returns the ensemble's parameters; every key is used once, every leaf filled.

    Raises:
      UserError: keys are missing or left over, or a shape is wrong; each is named.
    """
    table = key_table(ensemble)
    what = f"{ensemble.num} critics of {ensemble.depth} x {ensemble.width}"
    require_keys(source, what, arrays, table)
    members: dict[str, dict[str, list[np.ndarray]]] = {}
    for key, (_, layer, leaf) in table.items():
        rows = in_dim if layer == "hidden_0" else ensemble.width
        columns = 1 if layer == "out" else ensemble.width
        shape = (rows, columns) if leaf == "kernel" else (columns,)
        value = fill_leaf(source, key, arrays[key], leaf, shape)
        members.setdefault(layer, {}).setdefault(leaf, []).append(value)
    stacked = {
        layer: {leaf: np.stack(values) for leaf, values in leaves.items()}
        for layer, leaves in members.items()
    }
    return {"params": {"critics": stacked}}


def from_flax(ensemble: CriticEnsemble, params: Any) -> dict[str, np.ndarray]:
    """Returns torch key -> array, the inverse of `to_flax`."""
    critics = params["params"]["critics"]
    arrays = {}
    for key, (i, layer, leaf) in key_table(ensemble).items():
        value = np.asarray(critics[layer][leaf][i])
        arrays[key] = np.ascontiguousarray(value.T if leaf == "kernel" else value)
    return arrays


def _read_groups(source: str, content: Mapping[str, Any]) -> dict[str, dict]:
    """Sorts a state by prefix; the critics' tensors become arrays."""
    groups: dict[str, dict] = {}
    for key, tensor in content.items():
        prefix, _, rest = key.partition(".")
        if prefix in (CURRENT, TARGET):
            tensor = to_numpy(source, key, tensor)
        groups.setdefault(prefix, {})[rest] = tensor
    missing = [f"{prefix}.*" for prefix in (CURRENT, TARGET) if prefix not in groups]
    if missing:
        found = ", ".join(f"{prefix}.*" for prefix in groups) or "nothing"
        raise UserError(
            f"{source} is no save of VGD: keys missing: {', '.join(missing)}; found "
            f"{found}"
        )
    return groups


def _read_moments(
    source: str, content: Any, ensemble: CriticEnsemble, current: Arrays
) -> Moments:
    """Adam's state, whose parameters are numbered in the order of the key table."""
    keys = list(key_table(ensemble))
    try:
        (group,) = content["param_groups"]
        options = {name: group[name] for name in ADAM}
        options["betas"] = tuple(options["betas"])
        is_ours = bool(options == ADAM)
        learning_rate = float(group["lr"])
        states = [content["state"][i] for i in range(len(keys))]
        found = len(content["state"])
        counts = sorted({float(state["step"]) for state in states})
        parts = [(state["exp_avg"], state["exp_avg_sq"]) for state in states]
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise UserError(
            f"{source} holds no state of torch's Adam for the {len(keys)} tensors of "
            f"the critics ({error!r:.120}); {_DO_WITHOUT}"
        ) from error
    if not is_ours:
        raise UserError(
            f"{source}: found Adam with {options}, expected {ADAM}; {_DO_WITHOUT}"
        )
    if not 0 <= learning_rate < float("inf"):
        raise UserError(
            f"{source}: found learning rate {learning_rate}, expected a number from 0; "
            f"{_DO_WITHOUT}"
        )
    if found != len(keys) or len(counts) != 1 or counts[0] not in range(COUNT_END):
        raise UserError(
            f"{source}: found the state of {found} tensors after {counts} steps, "
            f"expected {len(keys)} after one number of steps; {_DO_WITHOUT}"
        )
    mean, square = {}, {}
    for key, pair in zip(keys, parts, strict=True):
        for arrays, tensor in zip((mean, square), pair, strict=True):
            arrays[key] = to_numpy(source, f"moment of {key}", tensor)
            if arrays[key].shape != current[key].shape:
                raise UserError(
                    f"{source}: the moment of {key} has shape "
                    f"{list(arrays[key].shape)}, expected {list(current[key].shape)}"
                )
            if arrays is square and (arrays[key] < 0).any():
                raise UserError(
                    f"{source}: the exp_avg_sq of {key} holds values below 0, "
                    f"expected squares; {_DO_WITHOUT}"
                )
    return Moments(mean, square, int(counts[0]), learning_rate)
