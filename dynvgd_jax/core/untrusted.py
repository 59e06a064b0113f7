"""Reads files from outside as if they were hostile: no pickle, sizes checked first."""

import hashlib
import json
import math
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynvgd_jax.core.errors import UserError

# Our demonstration files take some 10 MB.
MAX_NPZ_BYTES = 4 * 2**30
MAX_JSON_BYTES = 16 * 2**20  # ours are below 100 kB

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_ZIP_ERRORS = (
    ValueError,
    OSError,
    EOFError,
    KeyError,
    RuntimeError,  # encrypted; NotImplementedError: unknown compression
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def load_npz(
    path: str | Path, names: Sequence[str], max_bytes: int = MAX_NPZ_BYTES
) -> dict[str, np.ndarray]:
    """Returns those arrays of an npz file that `names` lists and the file holds.

    Nothing is allocated before the sizes that zip directory and array header declare
    agree with each other and, added up, stay below `max_bytes`.

    Raises:
      UserError: no readable npz, too large, or an array of Python objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            wanted = {n: members[f"{n}.npy"] for n in names if f"{n}.npy" in members}
            declared = sum(info.file_size for info in wanted.values())
            if declared > max_bytes:
                raise ValueError(f"{declared:,} bytes, expected at most {max_bytes:,}")
            return {name: _read(archive, info) for name, info in wanted.items()}
    except _ZIP_ERRORS as error:
        raise UserError(
            f"{path} cannot be read: not a readable npz file ({error}); write it again"
        ) from error


def load_json(path: str | Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Returns the JSON object in a file of at most `max_bytes`.

    Raises:
      UserError: the file cannot be read, is too large, or holds no JSON object.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise ValueError(f"more than {max_bytes:,} bytes")
        value = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged or cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: no JSON object")
    return value


def sha256(path: str | Path) -> str:
    """Returns the file's SHA-256 in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version not in _HEADERS:
            raise ValueError(f"{info.filename} has the unknown version {version}")
        shape, fortran_order, dtype = _HEADERS[version](member)
        if dtype.hasobject:
            raise ValueError(f"{info.filename} holds Python objects, expected numbers")
        size = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or member.tell() + size != info.file_size:
            raise ValueError(
                f"{info.filename} declares {shape} of {dtype}, its {info.file_size:,} "
                "bytes are others"
            )
        order = "F" if fortran_order else "C"
        content = bytearray(member.read())
        return np.frombuffer(content, dtype).reshape(shape, order=order)
