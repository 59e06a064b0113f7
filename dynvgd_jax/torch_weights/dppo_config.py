"""Reads from a YAML of DPPO or ReinFlow what a checkpoint's tensors cannot tell."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.diffusion.kinds import FIRST_KIND
from dynvgd_jax.diffusion.network import ACTIVATIONS, DiffusionMLP
from dynvgd_jax.envs.base import task_names

# The kind of ReinFlow's pre-trained policies, whose network is DPPO's.
FLOW = "flow_mlp"
MAX_BYTES = 64 * 2**10  # published ones have some 4 KB
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")
_D4RL = re.compile(r"^(\w+)-.*v\d+$")  # hopper-medium-v2 is task hopper's
_MAX_REFERENCES = 8
_MAX_DEPTH = 32
# What PyYAML raises on bad text; on tags such as !!int with a wrong value it lets
# Python's own errors through.
_READ_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    yaml.YAMLError,
)
# DPPO's own defaults of what a YAML may leave out.
_NETWORK_DEFAULTS = {
    "time_dim": 16,
    "mlp_dims": [256, 256],
    "cond_mlp_dims": None,
    "residual_style": False,
    "use_layernorm": False,
}


class DppoConfig(NamedTuple):
    """What a YAML says; None where it says nothing."""

    path: Path
    task: str | None  # one of ours
    num_train_timesteps: int | None  # denoising_steps
    activation: str | None  # of the trunk
    ft_denoising_steps: int | None  # None also for 0
    sizes: dict[str, Any]  # DPPO's name -> value, what tensors tell as well
    policy_kind: str | None = None  # by the model's class


def read_dppo_config(path: str | Path) -> DppoConfig:
    """Reads a pre-training, fine-tuning or evaluation YAML of DPPO.

    References such as `${denoising_steps}` are followed, any other interpolation
    counts as not said.

    Raises:
      UserError: no such file, no YAML, or a policy of a kind that is not built here.
    """
    path = Path(path)
    tree = _load_yaml(path)
    get = lambda name: _lookup(tree, name)  # noqa: E731
    network = "model.actor" if get("model.actor") is not None else "model.network"
    _require(path, get, "model.predict_epsilon", (None, True))
    _require(path, get, "model.denoised_clip_value", (None, 1))
    _require(path, get, "model.final_action_clip_value", (None,))
    _require(path, get, "cond_steps", (None, 1))
    kind = _kind(path, get("model._target_"))
    # a flow may take one step, and has no T
    least = 1 if kind == FLOW else 2
    steps = _count(path, get, "denoising_steps", least, 10_000)
    ft_steps = _count(path, get, "ft_denoising_steps", 0, 10_000)
    activation = get(f"{network}.activation_type")
    if get(network) is not None:
        activation = activation or "Mish"
        _require_activation(path, f"{network}.activation_type", activation)
    # Pre-training YAMLs say `env: square`; in others `env` is a group of settings.
    named = [_D4RL.sub(r"\1", str(get(name))) for name in ("env_name", "env")]
    task = next((name for name in named if name in task_names()), None)
    sizes = {name: get(name) for name in ("obs_dim", "action_dim", "horizon_steps")}
    sizes = {name: value for name, value in sizes.items() if value is not None}
    if get(network) is not None:
        for name, default in _NETWORK_DEFAULTS.items():
            value = get(f"{network}.{name}")
            sizes[name] = default if value is None else value
    return DppoConfig(
        path=path,
        task=task,
        num_train_timesteps=steps,
        activation=str(activation).lower() if activation else None,
        ft_denoising_steps=ft_steps or None,
        sizes={name: value for name, value in sizes.items() if _is_said(value)},
        policy_kind=kind,
    )


def disagreements(
    config: DppoConfig, network: DiffusionMLP, *, flat_chunk: bool = False
) -> str | None:
    """Returns one line that names each size in which YAML and tensors differ, or None.

    Args:
      config: the YAML.
      network: inferred from the tensors, which are followed.
      flat_chunk: the action size is unknown; sizes of the chunk are not compared.
    """
    found = {
        "obs_dim": network.obs_dim,
        "time_dim": network.time_dim,
        "mlp_dims": list(network.hidden_dims),
        "cond_mlp_dims": list(network.cond_dims) or None,
        "residual_style": network.residual,
        "use_layernorm": network.layer_norm,
    }
    if not flat_chunk:
        found["action_dim"] = network.action_dim
        found["horizon_steps"] = network.chunk_len
    texts = [
        f"{name} {config.sizes[name]!r:.60} (tensors: {value!r:.60})"
        for name, value in found.items()
        if name in config.sizes and config.sizes[name] != value
    ]
    if not texts:
        return None
    return f"{config.path} disagrees with the tensors, which win: {', '.join(texts)}"


def _load_yaml(path: Path) -> dict:
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected a YAML of DPPO")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UserError(
                f"{path} has {size:,} bytes, expected at most {MAX_BYTES:,}"
            )
        text = path.read_bytes()
        _refuse_bombs(path, text)
        tree = yaml.safe_load(text)
    except _READ_ERRORS as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{path} cannot be read as YAML: {reason}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds {type(tree).__name__}, expected DPPO's fields")
    return tree


def _refuse_bombs(path: Path, text: bytes) -> None:
    """Raises UserError on what makes a small file cost much memory or time.

    Aliases multiply; PyYAML's time grows with the square of the depth.
    """
    depth = 0
    for event in yaml.parse(text):
        if isinstance(event, yaml.AliasEvent):
            raise UserError(f"{path} uses aliases, which DPPO's do not; write them out")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MAX_DEPTH:
            raise UserError(f"{path} is nested deeper than {_MAX_DEPTH} levels")


def _lookup(tree: dict, name: str) -> Any:
    """The value at a dotted name; None where there is none or nobody can tell."""
    for _ in range(_MAX_REFERENCES):
        value: Any = tree
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not isinstance(value, str) or "${" not in value:
            return value
        reference = _REFERENCE.fullmatch(value)
        if reference is None:
            return None
        name = reference[1]
    return None


def _is_said(value: Any) -> bool:
    """Whether all of it is known: widths may hold an interpolation, too."""
    values = value if isinstance(value, list) else [value]
    return not any(isinstance(v, str) and "${" in v for v in values)


def _count(path: Path, get, name: str, least: int, greatest: int) -> int | None:
    """A number, at the top or, where it is not said there, of the model."""
    value = get(name)
    value = get(f"model.{name}") if value is None else value
    if value is None:
        return None
    if type(value) is not int or not least <= value <= greatest:
        raise UserError(
            f"{path}: {name}: found {value!r:.60}, expected a whole number from "
            f"{least} to {greatest}"
        )
    return value


def _require(path: Path, get, name: str, allowed: tuple) -> None:
    value = get(name)
    if not any(value is a or value == a for a in allowed):
        raise UserError(
            f"{path}: {name} is {value!r:.60}, expected {allowed[-1]}: other policies "
            "are not supported"
        )


def _kind(path: Path, model: Any) -> str | None:
    """The kind of policy whose class `model._target_` is; None where it is unsaid."""
    package = re.match(r"model\.(diffusion|flow)\.", str(model))
    if package is None:
        return None
    if package[1] == "diffusion":
        return FIRST_KIND
    if not str(model).endswith(".ReFlow"):
        raise UserError(
            f"{path}: model._target_ is {model!r:.60}, expected a diffusion or "
            "model.flow.reflow.ReFlow: other policies are not supported"
        )
    return FLOW


def _require_activation(path: Path, name: str, value: Any) -> None:
    known = ", ".join(ACTIVATIONS)
    if not isinstance(value, str) or value.lower() not in ACTIVATIONS:
        raise UserError(f"{path}: {name} is {value!r:.60}, expected one of {known}")
