"""Files and folders that appear complete or not at all, and files that only grow."""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from dynvgd_jax.core.errors import UserError

log = logging.getLogger(__name__)

# A link in a run folder from elsewhere must not lead to another file of the user.
_APPEND_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW


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


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Gives a hidden neighbour of `path` to fill; renames it when the block ends.

    By then everything in it is on the disk. An error inside the block deletes what was
    written, and the parent folders that were made for it.

    Raises:
      UserError: `path` exists already.
      OSError: its place cannot be written.
    """
    path = Path(path).absolute()
    refuse_existing(path)
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    made = [parent for parent in path.parents if not parent.exists()]  # deepest first
    try:
        partial.mkdir(parents=True)
        yield partial
        for inside in (*partial.rglob("*"), partial):
            sync(inside)
        partial.rename(path)
        sync(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if not path.exists():
            with suppress(OSError):  # somebody else has put something there
                for parent in made:
                    parent.rmdir()


@contextmanager
def new_file(path: str | Path) -> Iterator[BinaryIO]:
    """Gives a hidden neighbour of `path` to write; renames it when the block ends.

    By then it is on the disk. An error inside the block deletes what was written.

    Raises:
      UserError: `path` exists already.
      OSError: it cannot be written.
    """
    path = Path(path).absolute()
    refuse_existing(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            yield file
        sync(partial)
        partial.rename(path)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def remove_partials(folder: Path) -> None:
    """Deletes what a process that died inside a save has left in `folder`."""
    for path in folder.glob(".*.partial"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def refuse_existing(path: Path) -> None:
    """Raises UserError where there is something at `path`."""
    if path.exists():
        raise UserError(f"{path} exists already; give one that does not")


def sync(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class AppendFile:
    """A file that grows; what the disk does not take waits in memory, in order."""

    def __init__(self, path: Path):
        """Opens or creates `path`; OSError where that is impossible."""
        self.path = path
        self._descriptor = os.open(path, _APPEND_FLAGS, 0o644)
        self._size = os.fstat(self._descriptor).st_size
        self._waiting = bytearray()
        self._failing = False

    def append(self, content: bytes) -> None:
        """Writes at the end; where the disk refuses, warns once and tries again later.

        Readers see it at once; `flush` waits for the disk.
        """
        self._waiting += content
        try:
            self._write()
        except OSError as error:
            if not self._failing:
                log.warning("%s waits in memory: %s", self.path, error.strerror)
            self._failing = True

    def flush(self) -> int:
        """Returns the size in bytes, all of it on the disk; OSError where it is not."""
        self._write()
        os.fsync(self._descriptor)
        return self._size

    def close(self) -> None:
        """Writes what waits, or says that it is lost."""
        try:
            self._write()
        except OSError as error:
            count = len(self._waiting)
            log.warning("%s lacks %d bytes: %s", self.path, count, error.strerror)
        os.close(self._descriptor)

    def _write(self) -> None:
        # A full disk may take a part: the rest follows at exactly that place.
        while self._waiting:
            written = os.pwrite(self._descriptor, self._waiting, self._size)
            self._size += written
            del self._waiting[:written]
        if self._failing:
            log.warning("%s is complete again", self.path)
        self._failing = False
