"""Reads PyTorch files without running what they hold."""

import io
import pickle
import re
import shlex
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynvgd_jax.core.errors import UserError

ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# Kept as float32; the first two have all of their values in it.
_OTHER_FLOATS = (torch.float16, torch.bfloat16, torch.float64)
# What torch.compile and DataParallel put into keys, anywhere.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|module)\.")
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


def load_torch_bytes(name: str, content: bytes, remedy: str | None = None) -> Any:
    """Returns what `torch.save` wrote as `content`; errors as `load_torch`.

    `remedy` is what to do about other classes; None is a command for the file `name`.
    """
    if not content.startswith(ZIP_MAGIC):
        raise UserError(
            f"{name} does not begin like a zip file, expected what torch.save writes "
            f"since version 1.6; {_rewrite_advice(name, content)}"
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
            f"plain containers only; {remedy or _tensors_advice(name)}"
        ) from error
    except _READ_ERRORS as error:
        raise _damaged(name, error) from error


def _tensors_advice(name: str) -> str:
    """A command that keeps a file's tensors; the classes run inside it."""
    new = f"{name}.tensors.pt"
    code = (
        "import torch; plain = lambda v: v.state_dict() if hasattr(v, 'state_dict') "
        f"else v; c = plain(torch.load({name!r}, map_location='cpu', "
        "weights_only=False)); torch.save({k: plain(v) for k, v in c.items() if k in "
        f"('ema', 'model', 'state_dict') or torch.is_tensor(v)}}, {new!r})"
    )
    return (
        "if you trust the file, run this where that class is installed, then give "
        f"{new}: python -c {shlex.quote(code)}"
    )


def member_advice(path: str | Path, member: str) -> str:
    """A command that keeps only the tensors of one member of a zip."""
    path = str(path)
    new = f"{path}.tensors.zip"
    code = (
        f"import io, torch, zipfile; m = {member!r}; z = zipfile.ZipFile({path!r}); "
        "a = {n: z.read(n) for n in z.namelist()}; b = io.BytesIO(); "
        "c = torch.load(io.BytesIO(a[m]), map_location='cpu', weights_only=False); "
        "torch.save({k: v for k, v in c.items() if torch.is_tensor(v)}, b); "
        f"a[m] = b.getvalue(); o = zipfile.ZipFile({new!r}, 'w'); "
        "[o.writestr(n, d) for n, d in a.items()]; o.close()"
    )
    return (
        "if you trust the file, run this where that class is installed, then give "
        f"{new}: python -c {shlex.quote(code)}"
    )


def _rewrite_advice(name: str, content: bytes) -> str:
    new = f"{name}.new.pt"
    if content.startswith(_LEGACY_MAGIC):
        code = (
            f"import torch; torch.save(torch.load({name!r}, map_location='cpu', "
            f"weights_only=True), {new!r})"
        )
    elif content[8:10] == b'{"':
        code = (
            "import safetensors.torch as s, torch; "
            f"torch.save(s.load_file({name!r}), {new!r})"
        )
    else:
        return "save it again with a current PyTorch"
    kind = "an older file" if content.startswith(_LEGACY_MAGIC) else "safetensors"
    return f"it is {kind}: run this, then give {new}: python -c {shlex.quote(code)}"


def plain_keys(source: str | Path, tensors: Mapping) -> dict[str, Any]:
    """Returns the tensors under the keys of the plain module.

    `_orig_mod.` of torch.compile and `module.` of DataParallel are dropped.

    Raises:
      UserError: two keys become the same.
    """
    plain = {}
    for key, tensor in tensors.items():
        name = _WRAPPERS.sub("", str(key))
        if name in plain:
            raise UserError(f"{source}: two tensors are named {name}; save it again")
        plain[name] = tensor
    return plain


def note_of_types(source: str | Path, tensors: Mapping) -> list[str]:
    """Returns one line where some tensors are other floats than float32, else none."""
    values = [t for t in tensors.values() if isinstance(t, torch.Tensor)]
    found = sorted({str(t.dtype) for t in values if t.dtype in _OTHER_FLOATS})
    if not found:
        return []
    rounded = "; values were rounded" if "torch.float64" in found else ""
    return [f"{source} holds {', '.join(found)}, kept as float32{rounded}"]


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
    """Returns a floating-point tensor as a float32 array.

    Raises:
      UserError: it is no dense tensor of float16, bfloat16, float32 or float64, it
        declares more values than the file holds for it, or holds NaN or infinity.
    """
    floats = (torch.float32, *_OTHER_FLOATS)
    if not isinstance(tensor, torch.Tensor) or tensor.dtype not in floats:
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
    tensor = tensor.detach().resolve_neg().to(torch.float32)
    array = tensor.contiguous().numpy()
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
