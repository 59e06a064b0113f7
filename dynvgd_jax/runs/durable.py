"""Files and folders that appear complete or not at all, and files that only grow."""

import errno
import fcntl
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
_NEW_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


def write_durably(path: Path, content: bytes) -> None:
    """Writes a file and waits until it is on the disk.

    Raises:
      OSError: it cannot be written; an older file of that name is unchanged.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with _open_new(partial) as file:
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
    remove(partial)
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
def held(folder: Path) -> Iterator[bool]:
    """Holds a folder while the block runs and the process lives.

    Yields whether it is this block's: not where another one holds it, or it is gone.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield folder.is_dir()  # whoever held it before may have deleted it
    finally:
        os.close(descriptor)


def remove_abandoned(folder: Path, pattern: str) -> None:
    """Deletes the folders in `folder` of these names that no process holds."""
    for path in folder.glob(pattern):
        with suppress(OSError), held(path) as is_ours:
            if is_ours:
                shutil.rmtree(path)


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
        with _open_new(partial) as file:
            yield file
        sync(partial)
        partial.rename(path)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def entries(folder: Path) -> list[Path]:
    """Returns what lies in a folder that a run made for itself; nothing without one.

    Raises:
      OSError: a link stands in its place, whose files are not the run's to delete.
    """
    if folder.is_symlink():
        text = "is a link, expected a folder of the run's own; put the folder there"
        raise OSError(errno.ELOOP, text, str(folder))
    return sorted(folder.iterdir()) if folder.is_dir() else []


def remove(path: Path) -> None:
    """Deletes a file, a folder, or a link but nothing that it leads to.

    A folder is renamed first, so that none is ever seen half deleted; what a process
    that dies in between leaves is for `remove_partials`.

    Raises:
      OSError: it cannot be deleted.
    """
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    if not _is_partial(path):
        hidden = path.with_name(f".{path.name}.partial")
        remove(hidden)
        path = path.rename(hidden)
    shutil.rmtree(path)


def remove_partials(folder: Path) -> None:
    """Deletes what a process that died inside a save has left in `folder`.

    Raises:
      OSError: as `entries` and `remove`.
    """
    for path in entries(folder):
        if _is_partial(path):
            remove(path)


def refuse_links(folder: Path) -> None:
    """Raises UserError where `folder`, or anything inside, is a link."""
    refuse_link(folder)
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            refuse_link(Path(place, name))


def refuse_link(path: Path) -> None:
    """Raises UserError where `path` is a link: deleting there is for its owner."""
    if path.is_symlink():
        raise UserError(
            f"{path} is a link to {os.readlink(path)}; nothing was changed; a run "
            "deletes and replaces what lies in its folder, so put the files themselves "
            "there, or move the whole run folder and link that"
        )


def refuse_shared(path: Path) -> None:
    """Raises UserError where a change inside the file `path` shows elsewhere too."""
    refuse_link(path)
    if path.is_file() and path.stat().st_nlink > 1:
        raise UserError(
            f"{path} has another name elsewhere (a hard link), where its content would "
            "change too; nothing was changed; copy the run folder with cp -a"
        )


def _is_partial(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".partial")


def _open_new(path: Path) -> BinaryIO:
    """Opens a file that is new, whatever lay there before; follows no link."""
    path.unlink(missing_ok=True)
    # an opener, so that the file knows its name
    return open(path, "wb", opener=lambda name, _: os.open(name, _NEW_FLAGS, 0o644))


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
        self._unsafe = bytearray()  # written at the end, not known to be on the disk
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
        try:
            os.fsync(self._descriptor)
        except OSError:
            # Linux forgets what it could not write, and says at the next try that all
            # is well: that must be written again.
            self._size -= len(self._unsafe)
            self._waiting, self._unsafe = self._unsafe, bytearray()
            raise
        self._unsafe.clear()
        return self._size

    def close(self) -> None:
        """Writes what waits, or says that it is lost."""
        try:
            self._write()
        except OSError as error:
            count = len(self._waiting)
            log.warning("%s lacks %d bytes: %s", self.path, count, error.strerror)
        try:
            os.close(self._descriptor)
        except OSError as error:  # where a file system writes only now
            log.warning("%s may lack its end: %s", self.path, error.strerror)

    def _write(self) -> None:
        # A full disk may take a part: the rest follows at exactly that place.
        while self._waiting:
            written = os.pwrite(self._descriptor, self._waiting, self._size)
            self._size += written
            self._unsafe += self._waiting[:written]
            del self._waiting[:written]
        if self._failing:
            log.warning("%s is complete again", self.path)
        self._failing = False
