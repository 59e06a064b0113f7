"""Saves and restores trees of arrays with Orbax: exactly, or not at all.

A saved folder holds `arrays/` (Orbax, OCDBT) and `manifest.json` with the shape and
dtype of every leaf and the SHA-256 of every file, itself included. Orbax alone may
restore a tree whose keys differ from the template's without a word, and it does not
notice every damage; so both are compared here before Orbax reads anything. It may also
save less than it was given without a word; so what was written is read back, and only
what comes back bit for bit appears as a checkpoint.
"""

import errno
import hashlib
import json
import math
import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.untrusted import load_json, sha256
from dynvgd_jax.runs.durable import entries, new_folder, remove

PyTree = Any
MANIFEST = "manifest.json"
ARRAYS = "arrays"
MAX_TREE_BYTES = 64 * 2**30  # the largest of ours take some 100 MB
_SHOWN_PATHS = 4

# Without this file Orbax' folder (OCDBT) has no content, whatever else lies in it.
_INDEX = "manifest.ocdbt"
# Paths that Orbax and TensorStore take as they are written.
_LITERAL_PATH = re.compile(r"[\w ./+=,@~-]*", re.ASCII)
_OPEN_FOLDERS = Path("/proc/self/fd")

# What Orbax, TensorStore and JSON raise on files that are missing or damaged.
_READ_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError)


def save_tree(folder: str | Path, tree: PyTree) -> None:
    """Writes the arrays of `tree` to `folder`, which appears complete or not at all.

    Everything is written to a hidden neighbour first, read back, and renamed when it is
    on the disk, so a reader never sees half a folder. Returns when all of that has
    happened. Reading back takes about a fifth of the time.

    Args:
      folder: where to; must not exist.
      tree: any pytree of arrays and Python numbers; zero-size arrays are allowed.

    Raises:
      UserError: `folder` exists already.
      OSError: the disk is full or read-only, or what is read back is not what was
        written; nothing of `folder` is left then.
    """
    leaves = {path: np.asarray(leaf) for path, leaf in _flatten(tree).items()}
    with new_folder(folder) as partial:
        filled = {path: a for path, a in leaves.items() if a.size}
        if filled:  # Orbax refuses zero-size arrays; the manifest alone holds those
            _write_arrays(partial / ARRAYS, filled)
        described = {path: _describe(array) for path, array in leaves.items()}
        _check_written(partial, folder, leaves, described)
        manifest = {
            "leaves": described,
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
        return _steps(self.folder.iterdir())

    def latest(self) -> int | None:
        """The newest checkpoint's step, or None where there is none."""
        return max(self.steps(), default=None)

    def save(self, step: int, tree: PyTree) -> None:
        """Saves `tree` as checkpoint `step`; see `save_tree` for errors."""
        save_tree(self.folder / str(step), tree)

    def keep(self, steps: Collection[int]) -> None:
        """Deletes all checkpoints but `steps`.

        Raises:
          OSError: one cannot be deleted, or a link stands in the folder's place.
        """
        for step in _steps(entries(self.folder)):
            if step not in steps:
                remove(self.folder / str(step))

    def verify(self, step: int) -> None:
        """Raises UserError unless a checkpoint is whole and as it was saved."""
        folder = self.folder / str(step)
        leaves, hashes = _read_manifest(folder)
        _check_files(folder, hashes)
        # the sums may be those of a folder that lacked a part from the beginning
        _read_arrays(folder, leaves)

    def restore(self, step: int, template: PyTree) -> PyTree:
        """Returns checkpoint `step`; see `restore_tree` for `template` and errors."""
        if step not in self.steps():
            raise UserError(
                f"no checkpoint {step} in {self.folder}; found {self.steps() or 'none'}"
            )
        return restore_tree(self.folder / str(step), template)


def _steps(paths: Iterable[Path]) -> list[int]:
    return sorted(int(path.name) for path in paths if path.name.isdecimal())


@contextmanager
def _literal(folder: Path) -> Iterator[Path]:
    """Gives a path to an existing folder that Orbax and TensorStore take literally.

    Orbax looks for its files with patterns, to which brackets mean something else;
    TensorStore takes a backslash for a slash and writes elsewhere; `gs:` is a cloud to
    both. The kernel's own name of an open folder has nothing of that.

    Raises:
      UserError: the path has such characters, and the system no such names.
      OSError: the folder cannot be opened.
    """
    if _LITERAL_PATH.fullmatch(str(folder)):
        yield folder
        return
    if not _OPEN_FOLDERS.is_dir():
        raise UserError(
            f"arrays cannot be kept in {folder} on this system; give a path of letters "
            "without accents, digits, spaces and any of ./+=,@~_-"
        )
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield _OPEN_FOLDERS / str(descriptor)
    finally:
        os.close(descriptor)


def _write_arrays(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes with Orbax to `folder`, a new one in an existing one.

    Raises:
      OSError: the files cannot be written (TensorStore reports that as ValueError).
    """
    try:
        with _literal(folder.parent) as place, _checkpointer() as orbax:
            orbax.save(place / folder.name, args=ocp.args.PyTreeSave(arrays))
    except (ValueError, RuntimeError) as error:
        raise OSError(errno.EIO, _first_line(error), str(folder)) from error


def _check_written(
    partial: Path, folder: Path, leaves: dict[str, np.ndarray], described: dict
) -> None:
    """Reads back what was written for `folder`; OSError where it is anything else."""
    try:
        found = _read_arrays(partial, described)
    except UserError as error:
        raise OSError(
            errno.EIO, f"cannot be read back: {error.__cause__ or error}", str(folder)
        ) from error
    wrong = [
        p for p, a in leaves.items() if not np.array_equal(_bits(a), _bits(found[p]))
    ]
    if wrong:
        text = f"reads back other values of {_shorten(wrong)}"
        raise OSError(errno.EIO, text, str(folder))


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


def _bits(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


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
    # folders of before the digest have none
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
        if not (folder / ARRAYS / _INDEX).is_file():  # Orbax would only stumble
            raise UserError(
                f"{folder} lacks a part: {ARRAYS}/{_INDEX} was never written; use "
                "another checkpoint"
            )
        try:
            with _literal(folder) as place, _checkpointer() as orbax:
                _check_stored(orbax.metadata(place / ARRAYS), leaves)
                arrays = orbax.restore(place / ARRAYS)
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
