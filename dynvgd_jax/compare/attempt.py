"""One attempt at a run: a process of launch.py that may outlive who started it."""

import contextlib
import fcntl
import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from dynvgd_jax.compare.plan import Run
from dynvgd_jax.compare.records import begun

_TAIL_BYTES = 8192


class RunLock:
    """Held by the process of an attempt from before its start until its end.

    The lock belongs to an open file that the process inherits, so that it lives exactly
    as long as the process, also where whoever started it was killed.
    """

    def __init__(self, run: Run):
        self.path = run.folder.with_name(f".{run.folder.name}.lock")
        self._folder = run.folder
        self._descriptor: int | None = None

    def take(self, wait: bool = False) -> bool:
        """Takes it; False where another process has it and `wait` is not asked for.

        Raises:
          OSError: the file cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        descriptor = os.open(self.path, flags, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def start(self, arguments: Sequence[str], **options) -> subprocess.Popen:
        """Starts a process that holds the lock from now on, instead of this one."""
        process = subprocess.Popen(
            arguments, pass_fds=(self._descriptor,), start_new_session=True, **options
        )
        with contextlib.suppress(OSError):  # a full disk: nobody can stop it later
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{process.pid}\n".encode(), 0)
        self.release()
        return process

    def release(self) -> None:
        """Frees it where this process holds it; may be called twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def holder(self) -> int | None:
        """The process of this machine that has it, to judge by its command line."""
        try:
            pid = int(self.path.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if os.fsencode(f"--workdir={self._folder}") in command else None


def command(run: Run, program: Sequence[str]) -> list[str]:
    """Returns what runs it by hand: from its beginning, or from where it stands."""
    return [*program, *run.flags, *(["--resume"] if begun(run) else [])]


def start(
    run: Run,
    program: Sequence[str],
    lock: RunLock,
    variables: Mapping[str, str] | None = None,
) -> subprocess.Popen:
    """Starts the process; what it prints goes to the run's log, behind its command.

    It has a session of its own: Ctrl-C in a terminal reaches this process alone, which
    tells the others once.

    Args:
      run: what to run.
      program: launch.py as it is started here.
      lock: of the run, held by this process.
      variables: more of the environment.

    Raises:
      OSError: there is no place for the log, or no more processes.
    """
    arguments = command(run, program)
    with open(run.log, "ab") as log:
        log.write(f"$ {shlex.join(arguments)}\n".encode())
        log.flush()
        return lock.start(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | dict(variables or {}),
        )


def ask_to_stop(process_id: int) -> None:
    """Lets a run save a checkpoint and end."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process_id, signal.SIGTERM)


def log_tail(run: Run) -> list[str]:
    """The last lines of a run's log that are not empty."""
    try:
        with open(run.log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]
