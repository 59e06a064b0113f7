"""Output: how much of it, and readers who are gone (a closed pipe, a full disk)."""

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO

# After these nobody will read the rest; after others (a full disk) perhaps somebody.
_GONE = (errno.EPIPE, errno.EIO, errno.EBADF)
_quiet = False  # of the whole process, as logging's levels are


@contextlib.contextmanager
def quietly(quiet: bool = True) -> Iterator[None]:
    """Inside it, where `quiet`, only errors and final results are printed: --quiet."""
    global _quiet
    before, log = _quiet, logging.getLogger("dynvgd_jax")
    level = log.level
    _quiet = before or quiet
    if _quiet:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        _quiet = before
        log.setLevel(level)


def is_quiet() -> bool:
    """Whether the user wants no progress and no notes."""
    return _quiet


def note(text: str) -> None:
    """Prints a line on stderr that --quiet leaves out."""
    if not _quiet:
        print(text, file=sys.stderr, flush=True)


class Output:
    """Drops what stdout and stderr do not take, while its `with` block runs.

    A job must not end because nobody watches it any more. Standard streams that were
    closed before the start lead nowhere instead of into the next file that is opened.
    """

    def __init__(self, on_gone: Callable[[str], None] = lambda name: None):
        """Makes the guard; `on_gone("stdout")` is called once a stream has no reader.

        Args:
          on_gone: called with the stream's name, from the thread that wrote.
        """
        self._on_gone = on_gone

    def __enter__(self) -> "Output":
        _fill_closed()
        self._before = sys.stdout, sys.stderr
        self._streams = (
            _Stream(sys.stdout, "stdout", self._on_gone),
            _Stream(sys.stderr, "stderr", self._on_gone),
        )
        sys.stdout, sys.stderr = self._streams
        return self

    def __exit__(self, *exception) -> None:
        for stream in self._streams:
            stream.finish()
        sys.stdout, sys.stderr = self._before


class _Stream:
    """A text stream whose writing never fails; all else is the stream's own."""

    def __init__(self, stream: TextIO | None, name: str, on_gone):
        if isinstance(stream, _Stream):  # of a guard around this one
            stream = stream._stream
        self._stream = stream or open(os.devnull, "w")  # noqa: SIM115
        self._name, self._on_gone = name, on_gone
        self._is_gone = False

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._lose(error)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def finish(self) -> None:
        """Writes what waits, or drops it: Python's own end must not fail of it."""
        try:
            self._stream.flush()
        except OSError:
            self._lead_nowhere()

    def _lose(self, error: OSError) -> None:
        if error.errno in _GONE and not self._is_gone:
            self._is_gone = True
            self._lead_nowhere()
            self._on_gone(self._name)

    def _lead_nowhere(self) -> None:
        """Points the descriptor at /dev/null, for libraries that write to it too."""
        with contextlib.suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


def _fill_closed() -> None:
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
