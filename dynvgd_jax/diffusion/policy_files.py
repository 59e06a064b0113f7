"""Policy folders: `policy.json`, `weights/` and DPPO's `normalization.npz`.

`policy.json` names the kind of policy (`kinds.py`), what its kind says of it
(architecture, T), task, provenance and the versions of the tools.
"""

import functools
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from dynvgd_jax.core.command_line import expand
from dynvgd_jax.core.config_file import config_of
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import anything, number
from dynvgd_jax.core.normalize import load_normalization, save_normalization
from dynvgd_jax.core.observation import warn_of_constants
from dynvgd_jax.core.untrusted import load_json
from dynvgd_jax.diffusion.base import Kind
from dynvgd_jax.diffusion.kinds import FIRST_KIND, KINDS
from dynvgd_jax.diffusion.policy import Policy
from dynvgd_jax.runs.checkpoint import restore_tree, save_tree
from dynvgd_jax.runs.durable import new_folder

FORMAT_VERSION = 1
ASSETS = Path(__file__).resolve().parent.parent / "assets"
BUILTIN_PREFIX = "builtin:"
DESCRIPTION = "policy.json"
_WEIGHTS = "weights"
_NORMALIZATION = "normalization.npz"
_VERSIONED = ("jax", "flax", "numpy", "orbax-checkpoint")

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
        **KINDS[policy.kind].describe(policy.spec),
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONED},
        "metadata": policy.metadata,
    }
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
        name = description.get("kind", FIRST_KIND)
        kind = _kind(folder / DESCRIPTION, name)
        spec = kind.read(description)
        task = str(description["task"])
        metadata = dict(description["metadata"])
        init = functools.partial(kind.init, spec)
        template = jax.eval_shape(init, jax.random.key(0))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{folder / DESCRIPTION} does not describe a policy ({error!r}); "
            "convert or train the policy again"
        ) from error
    params = restore_tree(folder / _WEIGHTS, template)
    normalization = load_normalization(folder / _NORMALIZATION)
    warn_of_constants(normalization, task, f"the {task} policy's scale")
    sizes = (len(normalization.obs_min), len(normalization.action_min))
    expected = (spec.network.obs_dim, spec.network.action_dim)
    if sizes != expected:
        raise UserError(
            f"{folder / _NORMALIZATION} has {sizes} observation and action entries, "
            f"expected {expected} as in {DESCRIPTION}; "
            "put the file of this policy's own data set there"
        )
    return Policy(
        network=spec.network,
        params=params,
        num_train_timesteps=spec.num_train_timesteps,
        normalization=normalization,
        task=task,
        metadata=metadata,
        ft_denoising_steps=spec.ft_denoising_steps,
        kind=name,
    )


def _kind(path: Path, name: Any) -> Kind:
    if not isinstance(name, str) or name not in KINDS:
        raise UserError(
            f"{path}: found a policy of kind {name!r}, expected one of "
            f"{', '.join(KINDS)}; a newer version of this program may read it, or a "
            "file that adds this kind (docs/own_policy.md)"
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
        if folder.is_file():
            raise UserError(
                f"found the file {source}, expected a policy's folder; "
                "convert_torch_ckpt.py --policy makes one of a PyTorch checkpoint"
            )
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
        train = config_of(name, "pretrain")
        raise UserError(
            f"found no built-in policy {name!r}, expected one of "
            f"{', '.join(available) or 'none'}; "
            + (f"train one with {train} or " if train else "")
            + "give a policy folder"
        )
    return ASSETS / name
