"""Reads PyTorch files without running what they hold."""

import io
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynvgd_jax.core.errors import UserError

ZIP_MAGIC = b"PK\x03\x04"
# Published policies have some 30 MB, critics some 500; more is neither.
MAX_FILE_BYTES = 8 * 2**30
# What zipfile, pickle and torch raise on damaged files.
_READ_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
_CLASS = re.compile(r"GLOBAL ([\w.]+)|[Cc]lass(?:es)? [`']?([\w.]+)")


def load_torch(path: str | Path) -> Any:
    """Returns what `torch.save` wrote to `path`; tensors come to the CPU.

    Raises:
      UserError: no such file, not in torch's zip format, damaged, or it needs a class
        beyond tensors and plain containers (named).
    """
    return load_torch_bytes(str(path), read_file(path, "a PyTorch checkpoint (.pt)"))


def read_file(path: str | Path, expected: str) -> bytes:
    """Returns a file's bytes; UserError where there is none, or it is too large."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected {expected}")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise UserError(
            f"{path} has {path.stat().st_size:,} bytes, expected at most "
            f"{MAX_FILE_BYTES:,}; this is not {expected}"
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def load_torch_bytes(name: str, content: bytes) -> Any:
    """Returns what `torch.save` wrote as `content`; errors as `load_torch`."""
    if not content.startswith(ZIP_MAGIC):
        raise UserError(
            f"{name} does not begin like a zip file, expected what torch.save writes "
            "since version 1.6; save it again with a current PyTorch"
        )
    _check_archive(name, content)
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = _CLASS.search(str(error))
        if found is None:
            raise _damaged(name, error) from error
        raise UserError(
            f"{name} needs the class {found[1] or found[2]}, expected tensors and "
            "plain containers only; save the state_dict by itself"
        ) from error
    except _READ_ERRORS as error:
        raise _damaged(name, error) from error


def holds_member(path: str | Path, name: str) -> bool:
    """Whether a file is a zip with such a member; False for anything unreadable."""
    try:
        with zipfile.ZipFile(path) as archive:
            return name in archive.namelist()
    except _READ_ERRORS:
        return False


def read_members(path: str | Path, names: Sequence[str]) -> dict[str, bytes]:
    """Returns those members of a zip file that `names` lists and the file holds.

    Raises:
      UserError: no such file, no zip, damaged, or a member is too large.
    """
    path = Path(path)
    content = read_file(path, "a Stable-Baselines3 save (.zip)")
    if not content.startswith(ZIP_MAGIC):
        raise UserError(
            f"{path} does not begin like a zip file, expected a Stable-Baselines3 "
            "save; give the .zip itself, not what it holds"
        )
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {info.filename: info for info in archive.infolist()}
            wanted = [members[name] for name in names if name in members]
            size = sum(info.file_size for info in wanted)
            if size > MAX_FILE_BYTES:
                raise UserError(
                    f"{path} unpacks to {size:,} bytes, expected at most "
                    f"{MAX_FILE_BYTES:,}; this is no save of critics"
                )
            return {info.filename: archive.read(info) for info in wanted}
    except _READ_ERRORS as error:
        raise _damaged(str(path), error) from error


def to_numpy(source: str | Path, name: str, tensor: Any) -> np.ndarray:
    """Returns a tensor as a float32 array.

    Raises:
      UserError: it is no dense float32 tensor, declares more values than the file
        holds for it, or holds NaN or infinity.
    """
    if not isinstance(tensor, torch.Tensor) or tensor.dtype != torch.float32:
        kind = getattr(tensor, "dtype", type(tensor).__name__)
        raise UserError(f"{source}: {name} is {kind}, expected a float32 tensor")
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise UserError(
            f"{source}: {name} is {tensor.layout} on {tensor.device.type}, expected a "
            "dense tensor; save the state_dict again"
        )
    # A stride of 0 would repeat few stored values into as much memory as it likes.
    if tensor.nbytes > tensor.untyped_storage().nbytes():
        raise UserError(
            f"{source}: {name} has shape {list(tensor.shape)}, more than is stored for "
            "it; save it again after .contiguous()"
        )
    array = tensor.detach().resolve_neg().contiguous().numpy()
    if not np.isfinite(array).all():
        raise UserError(
            f"{source}: {name} holds values that are not finite; use another checkpoint"
        )
    return array


def _check_archive(name: str, content: bytes) -> None:
    """Raises UserError on a wrong checksum; torch itself would not notice."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            # torch.save compresses nothing, so that honest sizes add up to less.
            if sum(m.file_size for m in archive.infolist()) > len(content):
                raise UserError(
                    f"{name} would unpack to more than its {len(content):,} bytes, "
                    "expected what torch.save writes; save it again"
                )
            broken = archive.testzip()
    except _READ_ERRORS as error:
        raise _damaged(name, error) from error
    if broken is not None:
        raise UserError(f"{name} is damaged in {broken!r}; copy it again")


def _damaged(name: str, error: BaseException) -> UserError:
    reason = (str(error).splitlines() or [""])[0][:120] or type(error).__name__
    return UserError(f"{name} is truncated or damaged ({reason}); copy it again")
