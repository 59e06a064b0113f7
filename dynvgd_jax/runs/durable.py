"""Files that appear complete or not at all."""

import os
from pathlib import Path


def write_durably(path: Path, content: bytes) -> None:
    """Writes a file and waits until it is on the disk.

    Raises:
      OSError: it cannot be written; an older file of that name is unchanged.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
