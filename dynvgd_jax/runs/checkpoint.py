"""Saves and restores trees of arrays with Orbax: exactly, or not at all.

A saved folder holds `arrays/` (Orbax, OCDBT) and `manifest.json` with the shape and
dtype of every leaf and the SHA-256 of every file, itself included. Orbax alone may
restore a tree whose keys differ from the template's without a word, and it does not
notice every damage; so both are compared here before Orbax reads anything.
"""

import errno
import hashlib
import json
import math
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.untrusted import load_json, sha256
from dynvgd_jax.runs.durable import new_folder

PyTree = Any
MANIFEST = "manifest.json"
ARRAYS = "arrays"
MAX_TREE_BYTES = 64 * 2**30  # the largest of ours take some 100 MB
_SHOWN_PATHS = 4

# What Orbax, TensorStore and JSON raise on files that are missing or damaged.
_READ_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError)


def save_tree(folder: str | Path, tree: PyTree) -> None:
    """Writes the arrays of `tree` to `folder`, which appears complete or not at all.

    Everything is written to a hidden neighbour first and renamed when it is on the
    disk, so a reader never sees half a folder. Returns when all of that has happened.

    Args:
      folder: where to; must not exist.
      tree: any pytree of arrays and Python numbers; zero-size arrays are allowed.

    Raises:
      UserError: `folder` exists already.
      OSError: the disk is full or read-only; nothing of `folder` is left then.
    """
    leaves = {path: np.asarray(leaf) for path, leaf in _flatten(tree).items()}
    with new_folder(folder) as partial:
        filled = {path: a for path, a in leaves.items() if a.size}
        if filled:  # Orbax refuses zero-size arrays; the manifest alone holds those
            _write_arrays(partial / ARRAYS, filled)
        manifest = {
            "leaves": {path: _describe(array) for path, array in leaves.items()},
            "sha256": _hash_files(partial / ARRAYS),
        }
        manifest["digest"] = _digest(manifest)
        text = json.dumps(manifest, indent=1)
        (partial / MANIFEST).write_text(text, encoding="utf-8")


def restore_tree(folder: str | Path, template: PyTree) -> PyTree:
    """Returns the tree saved in `folder`, with exactly the structure of `template`.

    Args:
      folder: what `save_tree` wrote.
      template: a pytree with the expected key paths, shapes and dtypes; leaves may be
        arrays, `jax.ShapeDtypeStruct` or Python numbers. NumPy leaves come back as
        NumPy arrays, Python numbers as such, all others as JAX arrays.

    Raises:
      UserError: `folder` is missing, incomplete or damaged, or its key paths, shapes or
        dtypes are not those of `template`; the message names them.
    """
    folder = Path(folder).absolute()
    found, hashes = _read_manifest(folder)
    wanted = _flatten(template)
    _compare(folder, found, {path: _describe(leaf) for path, leaf in wanted.items()})
    _check_files(folder, hashes)
    size = sum(
        math.prod(e["shape"]) * jnp.dtype(e["dtype"]).itemsize for e in found.values()
    )
    if size > MAX_TREE_BYTES:
        raise UserError(f"{folder} declares {size:,} bytes; refused as too large")
    arrays = _read_arrays(folder, found)
    leaves = [_like(arrays[path], leaf) for path, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


class CheckpointStore:
    """The numbered checkpoints of one run, `folder/<step>/`."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).absolute()

    def steps(self) -> list[int]:
        """The complete checkpoints' steps, oldest first."""
        if not self.folder.is_dir():
            return []
        names = [path.name for path in self.folder.iterdir()]
        return sorted(int(name) for name in names if name.isdecimal())

    def latest(self) -> int | None:
        """The newest checkpoint's step, or None where there is none."""
        return max(self.steps(), default=None)

    def save(self, step: int, tree: PyTree) -> None:
        """Saves `tree` as checkpoint `step`; see `save_tree` for errors."""
        save_tree(self.folder / str(step), tree)

    def keep(self, steps: Collection[int]) -> None:
        """Deletes all checkpoints but `steps`."""
        for step in self.steps():
            if step not in steps:
                shutil.rmtree(self.folder / str(step))

    def verify(self, step: int) -> None:
        """Raises UserError unless every file of a checkpoint is as it was saved."""
        folder = self.folder / str(step)
        _check_files(folder, _read_manifest(folder)[1])

    def restore(self, step: int, template: PyTree) -> PyTree:
        """Returns checkpoint `step`; see `restore_tree` for `template` and errors."""
        if step not in self.steps():
            raise UserError(
                f"no checkpoint {step} in {self.folder}; found {self.steps() or 'none'}"
            )
        return restore_tree(self.folder / str(step), template)


def _write_arrays(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes with Orbax.

    Raises:
      OSError: the files cannot be written (TensorStore reports that as ValueError).
    """
    try:
        with _checkpointer() as orbax:
            orbax.save(folder, args=ocp.args.PyTreeSave(arrays))
    except (ValueError, RuntimeError) as error:
        raise OSError(errno.EIO, _first_line(error), str(folder)) from error


def _checkpointer() -> ocp.Checkpointer:
    # Each process of a run reads and writes by itself, waiting for no other.
    own = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=own,
        active_processes={own},
        barrier_sync_key_prefix=f"process{own}",
    )
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True, multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _flatten(tree: PyTree) -> dict[str, Any]:
    """Maps key paths such as `params/Dense_0/kernel` to leaves, in tree order."""
    named = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/") or "value"
        if name in named:
            raise ValueError(f"two leaves share the key path {name}")
        named[name] = leaf
    return named


def _describe(leaf: Any) -> dict[str, Any]:
    if not hasattr(leaf, "dtype"):
        leaf = np.asarray(leaf)
    return {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}


def _hash_files(folder: Path) -> dict[str, str]:
    hashes = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            hashes[path.relative_to(folder).as_posix()] = sha256(path)
    return hashes


def _digest(manifest: dict) -> str:
    """Returns the SHA-256 of a manifest without its entry `digest`."""
    content = {name: value for name, value in manifest.items() if name != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read_manifest(folder: Path) -> tuple[dict[str, dict], dict[str, str]]:
    if not folder.is_dir():
        raise UserError(f"no checkpoint at {folder}; give a folder that holds one")
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder} is no complete checkpoint: {MANIFEST} is missing")
    manifest = load_json(path)
    # the packaged policies' manifests are older than the digest
    if manifest.get("digest", _digest(manifest)) != _digest(manifest):
        raise UserError(f"{path} is damaged; use another checkpoint")
    try:
        leaves = {
            name: {"shape": [int(n) for n in entry["shape"]], "dtype": entry["dtype"]}
            for name, entry in manifest["leaves"].items()
        }
        return leaves, dict(manifest["sha256"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{path} is damaged; use another checkpoint") from error


def _check_files(folder: Path, hashes: dict[str, str]) -> None:
    found = _hash_files(folder / ARRAYS)
    if found != hashes:
        names = sorted(n for n in {*found, *hashes} if found.get(n) != hashes.get(n))
        raise UserError(
            f"{folder} is damaged: {_shorten(names)} missing or not as saved; "
            "use another checkpoint"
        )


def _compare(folder: Path, found: dict, wanted: dict) -> None:
    missing = [path for path in wanted if path not in found]
    surplus = [path for path in found if path not in wanted]
    different = [
        f"{path} ({_text(found[path])}, expected {_text(wanted[path])})"
        for path in wanted
        if path in found and found[path] != wanted[path]
    ]
    groups = {"missing": missing, "unexpected": surplus, "different": different}
    parts = [f"{name}: {_shorten(paths)}" for name, paths in groups.items() if paths]
    if parts:
        raise UserError(
            f"the checkpoint {folder} does not fit this configuration; "
            + "; ".join(parts)
        )


def _text(entry: dict) -> str:
    return f"{entry['dtype']}{entry['shape']}"


def _shorten(paths: list[str]) -> str:
    rest = len(paths) - _SHOWN_PATHS
    return ", ".join(paths[:_SHOWN_PATHS]) + (f" and {rest} more" if rest > 0 else "")


def _read_arrays(folder: Path, leaves: dict[str, dict]) -> dict[str, np.ndarray]:
    arrays = {}
    if any(0 not in entry["shape"] for entry in leaves.values()):
        try:
            with _checkpointer() as orbax:
                _check_stored(orbax.metadata(folder / ARRAYS), leaves)
                arrays = orbax.restore(folder / ARRAYS)
        except (*_READ_ERRORS, AttributeError) as error:
            raise UserError(
                f"{folder / ARRAYS} cannot be read ({_first_line(error)}); "
                "use another checkpoint"
            ) from error
    for path, entry in leaves.items():
        if 0 in entry["shape"]:
            arrays[path] = np.zeros(entry["shape"], entry["dtype"])
    _compare(folder, {path: _describe(a) for path, a in arrays.items()}, leaves)
    return arrays


def _check_stored(metadata: Any, leaves: dict[str, dict]) -> None:
    """Raises ValueError where the arrays are others than declared, before any is read.

    A hostile file could otherwise have more memory reserved than the manifest says.
    """
    stored = metadata.item_metadata.tree
    found = {path: _describe(array) for path, array in stored.items()}
    declared = {path: e for path, e in leaves.items() if 0 not in e["shape"]}
    if found != declared:
        raise ValueError("the arrays are not those of the manifest")
    for array in stored.values():
        if any(
            n > max(size, 1) for n, size in zip(array.storage.chunk_shape, array.shape)
        ):
            raise ValueError("an array is stored in pieces larger than itself")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:120] or type(error).__name__


def _like(array: np.ndarray, leaf: Any) -> Any:
    if isinstance(leaf, (bool, int, float)):
        return type(leaf)(array.item())
    if isinstance(leaf, (np.ndarray, np.generic)):
        return array
    return jnp.asarray(array)
