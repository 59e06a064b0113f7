"""DPPO's key names, and the architecture that a set of tensors has.

Works on plain dicts of NumPy arrays, keys without their prefix (`network.`, ...).
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.diffusion.network import DiffusionMLP, param_shapes

Arrays = Mapping[str, np.ndarray]

_SHOWN_KEYS = 6
_TIME = ("time_embedding.1", "time_embedding.3")
_RESIDUAL, _PLAIN = "mlp_mean.layers", "mlp_mean.moduleList"


def key_table(network: DiffusionMLP) -> dict[str, tuple[str, str]]:
    """Returns torch key -> (Flax layer, leaf) for every parameter of `network`."""
    layers = {_TIME[0]: "time_0", _TIME[1]: "time_1"}
    norms = {}
    for i in range(len(network.cond_dims)):
        layers[f"cond_mlp.moduleList.{i}.linear_1"] = f"cond_{i}"
    depth = len(network.hidden_dims)
    if network.residual:
        blocks = (depth - 1) // 2
        layers[f"{_RESIDUAL}.0"] = "trunk_in"
        for i in range(blocks):
            for part in ("l1", "l2"):
                layers[f"{_RESIDUAL}.{i + 1}.{part}"] = f"block_{i}_{part}"
            for part in ("norm1", "norm2"):
                norms[f"{_RESIDUAL}.{i + 1}.{part}"] = f"block_{i}_{part}"
        layers[f"{_RESIDUAL}.{blocks + 1}"] = "out"
    else:
        for i in range(depth):
            layers[f"{_PLAIN}.{i}.linear_1"] = f"trunk_{i}"
            norms[f"{_PLAIN}.{i}.norm_1"] = f"trunk_{i}_norm"
        layers[f"{_PLAIN}.{depth}.linear_1"] = "out"
    table = {}
    for name, layer in layers.items():
        table |= {f"{name}.weight": (layer, "kernel"), f"{name}.bias": (layer, "bias")}
    if network.layer_norm:
        for name, layer in norms.items():
            table[f"{name}.weight"] = (layer, "scale")
            table[f"{name}.bias"] = (layer, "bias")
    return table


def infer_network(
    source: str, arrays: Arrays, action_dim: int, activation: str
) -> DiffusionMLP:
    """Returns the module whose parameters these tensors are.

    Args:
      source: what messages begin with, such as the file's name.
      arrays: torch key -> array.
      action_dim: Da; tensors tell only the product Ta * Da.
      activation: "mish" or "relu"; tensors do not tell.

    Raises:
      UserError: the shapes fit no known layout.
    """
    residual = any(key.startswith(_RESIDUAL + ".") for key in arrays)
    trunk = _weights(arrays, _RESIDUAL if residual else _PLAIN, residual)
    encoder = _weights(arrays, "cond_mlp.moduleList", False)
    time = arrays.get(f"{_TIME[1]}.weight")
    if time is None or time.ndim != 2 or len(trunk) < 2:
        raise UserError(
            f"{source} holds no DPPO MLP policy: expected {_TIME[1]}.weight and "
            f"{_RESIDUAL}.* or {_PLAIN}.*, found {_some(list(arrays))}"
        )
    time_dim, flat_dim = len(time), len(trunk[-1])
    condition = len(encoder[-1]) if encoder else None
    rest = trunk[0].shape[1] - flat_dim - time_dim
    obs_dim = encoder[0].shape[1] if encoder else rest
    if flat_dim % action_dim or obs_dim < 1 or condition not in (None, rest):
        raise UserError(
            f"{source}: the shapes fit no known layout: {flat_dim} outputs for actions "
            f"of size {action_dim}, {trunk[0].shape[1]} inputs, time embedding "
            f"{time_dim}, encoded observation {condition}"
        )
    blocks = len(trunk) - 2
    widths = [len(weight) for weight in trunk[:-1]]
    if residual:
        widths = [widths[0]] * (1 + 2 * blocks)
    norm = any(re.search(r"mlp_mean\..*norm_?\d\.", key) for key in arrays)
    try:
        return DiffusionMLP(
            obs_dim=obs_dim,
            action_dim=action_dim,
            chunk_len=flat_dim // action_dim,
            time_dim=time_dim,
            hidden_dims=tuple(widths),
            cond_dims=tuple(len(weight) for weight in encoder),
            activation=activation,
            residual=residual,
            layer_norm=norm,
        )
    except ValueError as error:
        raise UserError(f"{source}: the shapes fit no known layout: {error}") from error


def require_keys(
    source: str, what: str, found: Iterable[str], expected: Iterable[str]
) -> None:
    """Raises UserError unless both hold the same keys; names each that differs."""
    found, expected = list(found), list(expected)
    missing = [key for key in expected if key not in found]
    surplus = [key for key in found if key not in expected]
    if missing or surplus:
        parts = [("missing", missing), ("left over", surplus)]
        text = "; ".join(f"{name}: {', '.join(keys)}" for name, keys in parts if keys)
        raise UserError(f"{source} does not hold exactly {what}; keys {text}")


def fill_leaf(
    source: str, key: str, array: np.ndarray, leaf: str, shape: tuple[int, ...]
) -> np.ndarray:
    """Returns torch's array as the Flax leaf; UserError where it has another shape."""
    value = array.T if leaf == "kernel" else array
    if value.shape != shape:
        raise UserError(
            f"{source}: {key} has shape {list(array.shape)}, expected "
            f"{list(shape[::-1])}"
        )
    return np.ascontiguousarray(value)


def to_flax(source: str, network: DiffusionMLP, arrays: Arrays) -> dict[str, Any]:
    """Returns the Flax parameters; every key is used once, every leaf filled once.

    Raises:
      UserError: keys are missing or left over, or a shape is wrong; each is named.
    """
    table = key_table(network)
    require_keys(source, "one policy", arrays, table)
    shapes = param_shapes(network)
    params: dict[str, Any] = {}
    for key, (layer, leaf) in table.items():
        value = fill_leaf(source, key, arrays[key], leaf, shapes[layer][leaf].shape)
        params.setdefault(layer, {})[leaf] = value
    return params


def from_flax(network: DiffusionMLP, params: Any) -> dict[str, np.ndarray]:
    """Returns torch key -> array, the inverse of `to_flax`."""
    arrays = {}
    for key, (layer, leaf) in key_table(network).items():
        value = np.asarray(params[layer][leaf])
        arrays[key] = np.ascontiguousarray(value.T if leaf == "kernel" else value)
    return arrays


def _weights(arrays: Arrays, prefix: str, residual: bool) -> list[np.ndarray]:
    """The trunk's weight matrices in order; of a block only its first."""
    names = (".weight", ".l1.weight") if residual else (".linear_1.weight",)
    found = []
    while True:
        keys = [f"{prefix}.{len(found)}{name}" for name in names]
        matrix = [arrays[k] for k in keys if k in arrays and arrays[k].ndim == 2]
        if not matrix or 0 in matrix[0].shape:
            return found
        found.append(matrix[0])


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN_KEYS} more" if len(keys) > _SHOWN_KEYS else ""
    return (", ".join(keys[:_SHOWN_KEYS]) or "no keys") + more
