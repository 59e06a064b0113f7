"""Policy folders: `policy.json`, `weights/` and DPPO's `normalization.npz`.

`policy.json` names the kind of policy, its architecture, T, task, provenance and the
versions of the tools. Another kind of policy is one file and one line of `KINDS`.
"""

import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from dynvgd_jax.core.command_line import expand
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import anything, number
from dynvgd_jax.core.normalize import load_normalization, save_normalization
from dynvgd_jax.core.observation import warn_of_constants
from dynvgd_jax.core.untrusted import load_json
from dynvgd_jax.diffusion.network import network_fields, read_network
from dynvgd_jax.diffusion.policy import Policy, param_template
from dynvgd_jax.runs.checkpoint import restore_tree, save_tree
from dynvgd_jax.runs.durable import new_folder

FORMAT_VERSION = 1
ASSETS = Path(__file__).resolve().parent.parent / "assets"
BUILTIN_PREFIX = "builtin:"
# Far above any policy; what a damaged or hostile file may ask for.
MAX_TRAIN_TIMESTEPS = 100_000
DESCRIPTION = "policy.json"
_WEIGHTS = "weights"
_NORMALIZATION = "normalization.npz"
_FT_STEPS = "ft_denoising_steps"
_VERSIONED = ("jax", "flax", "numpy", "orbax-checkpoint")


class Kind(NamedTuple):
    """How a kind of policy is described in `policy.json`, and made from it."""

    # (network, params, T, normalization, task, metadata, ft_denoising_steps) -> policy
    policy: Callable[..., Policy]
    describe: Callable[[Any], dict[str, Any]]  # network -> JSON values
    read_network: Callable[[dict[str, Any]], Any]  # the inverse; checks every size
    # (network, ft_denoising_steps) -> parameters as shapes and dtypes
    template: Callable[[Any, int], Any]


# `Policy.kind` -> how it is read. Older folders name none and are the first.
KINDS = {
    "diffusion_mlp": Kind(Policy, network_fields, read_network, param_template),
}
_FIRST_KIND = "diffusion_mlp"

FIELDS = {"base_policy": anything, "ddim_steps": number(1, 100)}


def save_policy(folder: str | Path, policy: Policy) -> None:
    """Writes `policy` to `folder`, which appears complete or not at all.

    Raises:
      UserError: `folder` exists already, or cannot be written.
    """
    description = {
        "format_version": FORMAT_VERSION,
        "kind": policy.kind,
        "task": policy.task,
        "num_train_timesteps": policy.num_train_timesteps,
        "network": KINDS[policy.kind].describe(policy.network),
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONED},
        "metadata": policy.metadata,
    }
    if policy.ft_denoising_steps:
        description[_FT_STEPS] = policy.ft_denoising_steps
    try:
        with new_folder(folder) as partial:
            save_tree(partial / _WEIGHTS, policy.params)
            save_normalization(partial / _NORMALIZATION, policy.normalization)
            text = json.dumps(description, indent=2) + "\n"
            (partial / DESCRIPTION).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write the policy {folder}: {error}") from error


def load_policy(source: str | Path) -> Policy:
    """Returns the policy of a folder, or a packaged one: `builtin:<task>`.

    Raises:
      UserError: there is no such policy, a file of it is missing or damaged, or its
        parts do not fit each other.
    """
    folder = locate(str(source))
    description = load_json(folder / DESCRIPTION)
    try:
        if description["format_version"] != FORMAT_VERSION:
            raise UserError(
                f"{folder / DESCRIPTION} has format "
                f"{description['format_version']!r}, expected {FORMAT_VERSION}; "
                "convert or train the policy again with this version"
            )
        kind = _kind(folder / DESCRIPTION, description.get("kind", _FIRST_KIND))
        network = kind.read_network(description["network"])
        num_train = description["num_train_timesteps"]
        if type(num_train) is not int or not 2 <= num_train <= MAX_TRAIN_TIMESTEPS:
            raise ValueError(
                f"num_train_timesteps {num_train!r}, expected a number that is at "
                f"least 2 and at most {MAX_TRAIN_TIMESTEPS}"
            )
        task = str(description["task"])
        metadata = dict(description["metadata"])
        ft_steps = int(description.get(_FT_STEPS, 0))  # only fine-tuned ones have it
        if not 0 <= ft_steps <= num_train:
            raise ValueError(f"{_FT_STEPS} {ft_steps}")
        template = kind.template(network, ft_steps)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{folder / DESCRIPTION} does not describe a policy ({error!r}); "
            "convert or train the policy again"
        ) from error
    params = restore_tree(folder / _WEIGHTS, template)
    normalization = load_normalization(folder / _NORMALIZATION)
    warn_of_constants(normalization, task, f"the {task} policy's scale")
    sizes = (len(normalization.obs_min), len(normalization.action_min))
    if sizes != (network.obs_dim, network.action_dim):
        raise UserError(
            f"{folder / _NORMALIZATION} has {sizes} observation and action entries, "
            f"expected {(network.obs_dim, network.action_dim)} as in {DESCRIPTION}; "
            "put the file of this policy's own data set there"
        )
    parts = (network, params, num_train, normalization, task, metadata, ft_steps)
    return kind.policy(*parts)


def _kind(path: Path, name: Any) -> Kind:
    if not isinstance(name, str) or name not in KINDS:
        raise UserError(
            f"{path}: found a policy of kind {name!r}, expected one of "
            f"{', '.join(KINDS)}; a newer version of this program may read it"
        )
    return KINDS[name]


def policy_source(config: ConfigDict) -> str:
    """Returns what `load_policy` takes for a run's `base_policy` and `task`."""
    source = config.base_policy
    return f"{BUILTIN_PREFIX}{config.task}" if source == "builtin" else source


def locate(source: str) -> Path:
    """Returns the folder of a policy, see `load_policy`; UserError without one."""
    if not source.startswith(BUILTIN_PREFIX):
        folder = expand(source)
        if not folder.is_dir():
            raise UserError(
                f"found no policy folder at {source}; give a folder that holds "
                f"{DESCRIPTION}, or {BUILTIN_PREFIX}<task>"
            )
        if not (folder / DESCRIPTION).is_file():
            raise UserError(
                f"{folder} is no complete policy folder: {DESCRIPTION} is missing; "
                f"expected {DESCRIPTION}, {_WEIGHTS}/ and {_NORMALIZATION}"
            )
        return folder
    name = source.removeprefix(BUILTIN_PREFIX)
    available = sorted(path.parent.name for path in ASSETS.glob(f"*/{DESCRIPTION}"))
    if name not in available:
        raise UserError(
            f"found no built-in policy {name!r}, expected one of "
            f"{', '.join(available) or 'none'}; train one with "
            f"configs/{name}_pretrain.py or give a policy folder"
        )
    return ASSETS / name
