"""Reads PyTorch files without running what they hold."""

import hashlib
import io
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynvgd_jax.errors import UserError

ZIP_MAGIC = b"PK\x03\x04"
# The published files have some 30 MB; more than this is no policy.
MAX_FILE_BYTES = 8 * 2**30
# What zipfile, pickle and torch raise on damaged files.
_READ_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)
_CLASS = re.compile(r"GLOBAL ([\w.]+)|[Cc]lass(?:es)? [`']?([\w.]+)")


def sha256(path: Path) -> str:
    """Returns the file's SHA-256 in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_torch(path: str | Path) -> Any:
    """Returns what `torch.save` wrote to `path`; tensors come to the CPU.

    Raises:
      UserError: no such file, not in torch's zip format, damaged, or it needs a class
        beyond tensors and plain containers (named).
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected a PyTorch checkpoint (.pt)")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise UserError(
            f"{path} has {path.stat().st_size:,} bytes, expected at most "
            f"{MAX_FILE_BYTES:,}; this is no policy"
        )
    content = path.read_bytes()
    if not content.startswith(ZIP_MAGIC):
        raise UserError(
            f"{path} does not begin like a zip file, expected what torch.save writes "
            "since version 1.6; save it again with a current PyTorch"
        )
    _check_archive(path, content)
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = _CLASS.search(str(error))
        if found is None:
            raise _damaged(path, error) from error
        raise UserError(
            f"{path} needs the class {found[1] or found[2]}, expected tensors and "
            "plain containers only; save the state_dict by itself"
        ) from error
    except _READ_ERRORS as error:
        raise _damaged(path, error) from error


def to_numpy(path: Path, name: str, tensor: Any) -> np.ndarray:
    """Returns a tensor as a float32 array.

    Raises:
      UserError: it is no float32 tensor, or holds NaN or infinity.
    """
    if not isinstance(tensor, torch.Tensor) or tensor.dtype != torch.float32:
        kind = getattr(tensor, "dtype", type(tensor).__name__)
        raise UserError(f"{path}: {name} is {kind}, expected a float32 tensor")
    array = tensor.detach().contiguous().numpy()
    if not np.isfinite(array).all():
        raise UserError(
            f"{path}: {name} holds values that are not finite; use another checkpoint"
        )
    return array


def _check_archive(path: Path, content: bytes) -> None:
    """Raises UserError on a wrong checksum; torch itself would not notice."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > MAX_FILE_BYTES:
                raise UserError(f"{path} unpacks to more than {MAX_FILE_BYTES:,} bytes")
            broken = archive.testzip()
    except _READ_ERRORS as error:
        raise _damaged(path, error) from error
    if broken is not None:
        raise UserError(f"{path} is damaged in {broken!r}; copy it again")


def _damaged(path: Path, error: BaseException) -> UserError:
    reason = (str(error).splitlines() or [""])[0][:120] or type(error).__name__
    return UserError(f"{path} is truncated or damaged ({reason}); copy it again")
