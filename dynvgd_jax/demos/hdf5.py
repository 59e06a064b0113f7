"""Looks at a robomimic HDF5 file before any of its values are read."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.demos import hdf5_words

# Ours take some 30 MB, robomimic's low-dimensional ones up to 400.
MAX_HDF5_BYTES = 4 * 2**30
MAGIC = b"\x89HDF\r\n\x1a\n"
SUFFIXES = (".hdf5", ".h5", ".hdf")
_READ_ARRAYS = ("actions", "rewards", "states")
_WORDS_TIMEOUT_S = 60  # of a process that needs half a second


class Words(NamedTuple):
    """The texts of a file."""

    env_args: dict[str, Any] | None  # robomimic's description of the environment
    masks: dict[str, list[str]]  # filter key -> names of its episodes


def is_hdf5(path: str | Path) -> bool:
    """Whether the file's first bytes say so or, where there is none, its name."""
    try:
        with open(path, "rb") as file:
            start = file.read(len(MAGIC))
    except OSError:
        start = b""
    named = Path(path).suffix.lower() in SUFFIXES
    return start == MAGIC or (named and not start.startswith(b"PK"))


def read_words(path: str | Path) -> Words:
    """Reads the texts of a robomimic file in a process of its own.

    A file that is no HDF5 has none; reading its values says what is wrong.

    Raises:
      UserError: the texts are damaged.
    """
    command = [sys.executable, "-P", hdf5_words.__file__, str(Path(path).absolute())]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=_WORDS_TIMEOUT_S,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        if done.returncode == hdf5_words.NOT_HDF5:
            return Words(None, {})
        if done.returncode:
            raise ValueError(f"exit code {done.returncode}")
        found = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise UserError(
            f"{path} is damaged where it says what it holds (env_args, mask); copy it "
            "again"
        ) from error
    return Words(parse_env_args(found["env_args"]), found["masks"])


def parse_env_args(text: str | None) -> dict[str, Any] | None:
    """Returns robomimic's description of an environment; None where it is none."""
    try:
        value = json.loads(text or "null")
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and value else None


def choose_episodes(
    path: str | Path, names: Sequence[str], masks: dict[str, list[str]], key: str
) -> list[str]:
    """Returns the episodes to read, in the order of the numbers in their names.

    Args:
      path: what messages begin with.
      names: of all episodes.
      masks: the file's filter keys.
      key: one of them; "" takes every episode.

    Raises:
      UserError: there is no such key, it is empty, or it names other episodes.
    """
    if not key:
        return sorted(names, key=_natural)
    if key not in masks:
        raise UserError(
            f"{path} has no filter key {key!r}, found {', '.join(masks) or 'none'}; "
            "give one of them, or none for all episodes"
        )
    absent = [name for name in masks[key] if name not in names]
    if absent or not masks[key]:
        raise UserError(
            f"{path}: the filter key {key!r} names "
            f"{', '.join(absent[:6]) or 'no episode'}, expected episodes of the file; "
            "give another key, or none for all episodes"
        )
    return sorted(set(masks[key]), key=_natural)


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """`demo_2` before `demo_10`, whatever else stands in the name."""
    parts = re.split(r"(\d+)", name)
    return [
        (part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts
    ]


def check_sizes(path: str | Path, data: h5py.Group, names: Sequence[str]) -> None:
    """Raises UserError where the file declares more, or other, than numbers of it."""
    declared = 0
    for name in names:
        if not isinstance(data[name], h5py.Group):
            raise UserError(f"{path}: data/{name} is no group; expected robomimic's")
        require_inside(data.file, data[name], f"{path}: data/{name}")
        for part in (*_READ_ARRAYS, *_observations(data[name])):
            array = data[name].get(part)
            if array is None:
                continue
            where = f"{path}: data/{name}/{part}"
            if not isinstance(array, h5py.Dataset) or array.dtype.kind not in "fiub":
                raise UserError(f"{where} holds no numbers; expected robomimic's")
            require_inside(data.file, array, where)
            declared += array.nbytes
    if declared > MAX_HDF5_BYTES:
        raise UserError(
            f"{path} declares {declared:,} bytes, expected at most {MAX_HDF5_BYTES:,}"
        )


def require_inside(
    file: h5py.File, item: h5py.Group | h5py.Dataset, where: str
) -> None:
    """Raises UserError where links or the storage of values lead to another file."""
    # A file that is open already is given again, so that equal names are one file.
    inside = item.file.filename == file.filename
    if isinstance(item, h5py.Dataset):
        inside = inside and not item.is_virtual and not item.external
    if not inside:
        raise UserError(f"{where} lies in another file; expected it in this one")


def attribute(group: h5py.Group, name: str, default: Any) -> Any:
    """A single value of fixed size; what is anything else counts as absent.

    The HDF5 library hangs on some damaged strings of variable length.
    """
    if name not in group.attrs:
        return default
    held = group.attrs.get_id(name)
    if held.shape != () or held.dtype.hasobject:
        return default
    return group.attrs[name]


def _observations(group: h5py.Group) -> list[str]:
    found = []
    for name in ("obs", "next_obs"):
        part = group.get(name)
        if isinstance(part, h5py.Group):
            found += [f"{name}/{key}" for key in part]
    return found
