"""Whether what a resumed run names is what it began with: by content, not by path."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from dynvgd_jax.agent import CHECKPOINTS, POLICY
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import get_field
from dynvgd_jax.core.untrusted import sha256
from dynvgd_jax.diffusion.policy import Policy
from dynvgd_jax.diffusion.policy_files import (
    BUILTIN_PREFIX,
    load_policy,
    policy_source,
)
from dynvgd_jax.runs.checkpoint import MANIFEST, CheckpointStore
from dynvgd_jax.runs.settings import read_config

CRITICS_NOTE = "initial_critics_sha256"  # among the notes of a checkpoint


def check_policy(workdir: Path, config: ConfigDict) -> list[str]:
    """Compares the base policy that a run goes on with and the one that is named.

    A run uses the copy in its own folder, so the one that it was made from may have
    been moved or deleted.

    Args:
      workdir: of the run.
      config: what it shall go on with.

    Returns: what the user should know, in words.

    Raises:
      UserError: another policy is named than the run has, or the run's is damaged.
    """
    old = get_field(read_config(workdir), "base_policy")
    new = config.base_policy
    if not (workdir / POLICY).exists():
        if old != new:
            raise UserError(
                f"the run in {workdir} cannot go on with config.base_policy: {old!r} "
                f"-> {new!r}: it has no policy of its own to compare; give the old "
                "value"
            )
        return []
    own = load_policy(workdir / POLICY)
    packaged = new == "builtin" or new.startswith(BUILTIN_PREFIX)
    if not packaged and not Path(new).exists():
        return [f"the run's own policy: there is no {new} any more"]
    try:
        given = load_policy(policy_source(config))
    except UserError as error:
        if old != new:
            raise
        return [f"the run's own policy: {error}"]
    other = policy_differences(given, own)
    if not other:
        return []
    text = f"config.base_policy: {new} holds another policy ({', '.join(other)})"
    if old == new:
        return [f"the run's own policy: {text} than when the run began"]
    raise UserError(
        f"the run in {workdir} cannot go on with {text}; leave it out, or start a new "
        "run with another --workdir"
    )


def policy_differences(a: Policy, b: Policy) -> list[str]:
    """Returns the parts in which two policies are not the same, bit for bit."""
    parts = {
        "kind": a.kind == b.kind,
        "network": a.network == b.network,
        "training timesteps": a.num_train_timesteps == b.num_train_timesteps,
        "fine-tuned steps": a.ft_denoising_steps == b.ft_denoising_steps,
        "task": a.task == b.task,
        "normalisation": _same(a.normalization, b.normalization),
        "weights": _same(a.params, b.params),
    }
    return [name for name, same in parts.items() if not same]


def critics_sha256(folder: str) -> str | None:
    """Returns what tells the critics in `config.initial_critics`; None without any.

    Args:
      folder: of a run (its newest checkpoint) or of a checkpoint; "" is none.
    """
    if not folder:
        return None
    place = Path(folder)
    step = CheckpointStore(place / CHECKPOINTS).latest()
    place = place if step is None else place / CHECKPOINTS / str(step)
    manifest = place / MANIFEST  # holds the SHA-256 of all the files
    return sha256(manifest) if manifest.is_file() else None


def check_critics(workdir: Path, config: ConfigDict, notes: dict[str, Any]) -> None:
    """Compares the critics that a run began with and those that are named.

    A run goes on with its own, so the folder that they came from may have been moved
    or deleted.

    Args:
      workdir: of the run.
      config: what it shall go on with.
      notes: of the checkpoint that it goes on from.

    Raises:
      UserError: others are named, or some where it began with fresh ones.
    """
    old = get_field(read_config(workdir), "initial_critics")
    new = config.initial_critics
    if old == new:
        return
    began, found = notes.get(CRITICS_NOTE), critics_sha256(new)
    if not old or not new or (began and found and began != found):
        raise UserError(
            f"the run in {workdir} cannot go on with config.initial_critics: {old!r} "
            f"-> {new!r}: it began with other critics; give the old value, or start a "
            "new run with another --workdir"
        )


def _same(a: Any, b: Any) -> bool:
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y, equal_nan=True) for x, y in pairs)
