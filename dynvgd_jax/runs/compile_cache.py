"""Keeps compiled programs between starts, so that the second one need not compile."""

import hashlib
import os
import platform
from pathlib import Path

FOLDER = "JAX_COMPILATION_CACHE_DIR"
LEAST_SECONDS = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


def use_compile_cache() -> Path | None:
    """Returns the folder that JAX, imported afterwards, will use; None is no cache.

    It is `$XDG_CACHE_HOME/dynvgd_jax/xla/<processor>` (by default below `~/.cache`).
    The processor belongs to it because XLA would also load, and crash on, machine code
    of another one that shares the home folder. Where the user has set JAX's own
    variable, that holds; where the folder cannot be written, nothing is kept.
    """
    if FOLDER in os.environ:
        return Path(os.environ[FOLDER])
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(home).expanduser() / "dynvgd_jax" / "xla" / _processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(folder, os.W_OK):
        return None
    os.environ[FOLDER] = str(folder)
    os.environ.setdefault(LEAST_SECONDS, "0.2")
    return folder


def _processor() -> str:
    """A short name of the processor's model and instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = [platform.processor()]
    kept = sorted({li for li in lines if li.startswith(("model name", "flags"))})
    text = "\n".join([platform.machine(), *(kept or lines)])
    return hashlib.sha256(text.encode()).hexdigest()[:12]
