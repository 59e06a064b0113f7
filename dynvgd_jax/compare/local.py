"""Runs as processes of this machine, several at once, each on cores of its own."""

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from dynvgd_jax.compare import attempt
from dynvgd_jax.compare.attempt import RunLock
from dynvgd_jax.compare.plan import Run
from dynvgd_jax.compare.records import finished
from dynvgd_jax.core.cores import usable_cores


class LocalExecutor:
    """Starts at most `jobs` processes at once."""

    def __init__(self, jobs: int, program: Sequence[str]):
        self._program = tuple(program)
        self._slots: list[LocalAttempt | None] = [None] * jobs
        self._shares = core_shares(jobs)

    @property
    def cores(self) -> int:
        """Of each run, which its numbers depend on by rounding."""
        return len(self._shares[0])

    def has_room(self) -> bool:
        """Whether another run may start."""
        return None in self._slots

    def start(self, run: Run, say: Callable[[str], None]) -> "LocalAttempt":
        """Starts a run where there is room.

        Args:
          run: what to run.
          say: prints a line.
        """
        slot = self._slots.index(None)
        cores = self._shares[slot]
        self._slots[slot] = LocalAttempt(
            run, self._program, cores, say, lambda: self._leave(slot)
        )
        return self._slots[slot]

    def command(self, run: Run, place: int) -> list[str]:
        """Returns what does the same by hand, as one of a list, by its place there."""
        cores = self._shares[place % len(self._shares)]
        pinned = ["taskset", "-c", ",".join(map(str, cores))]
        all_cores = len(self._slots) == 1
        return [*([] if all_cores else pinned), *attempt.command(run, self._program)]

    def _leave(self, slot: int) -> None:
        self._slots[slot] = None


class LocalAttempt:
    """A run that waits for the process of an earlier comparison, or goes on itself."""

    def __init__(self, run: Run, program, cores: Sequence[int], say, on_end):
        self._run, self._program, self._cores = run, program, cores
        self._say, self._on_end = say, on_end
        self._lock = RunLock(run)
        self._process: subprocess.Popen | None = None
        self._waits = self._stopping = self._has_ended = False

    def poll(self) -> str | None:
        """How it ended, such as "exit code 2"; None while it goes on.

        Raises:
          OSError: its process could not be started.
        """
        if self._has_ended:
            return "ended before"
        if self._process is None:
            return self._begin()
        code = self._process.poll()
        if code is None:
            return None
        text = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return self._end(text)

    def stop(self) -> None:
        """Lets it save and end; call `poll` until it has."""
        self._stopping = True
        holder = self._lock.holder() if self._process is None else self._process.pid
        if holder is not None:
            attempt.ask_to_stop(holder)

    def _begin(self) -> str | None:
        try:
            if not self._lock.take():
                if self._stopping and self._lock.holder() is None:
                    return self._end("left to itself")
                self._tell_of_waiting()
                return None
            if self._stopping or finished(self._run):
                return self._end("not started")
            with _pinned(self._cores):
                self._process = attempt.start(self._run, self._program, self._lock)
        except OSError:
            self._end("not started")
            raise
        return None

    def _tell_of_waiting(self) -> None:
        if not self._waits:
            self._waits = True
            holder = self._lock.holder()
            self._say(
                f"{self._run.label}: process {holder or '?'} of an earlier comparison "
                "still runs it; waiting for its end"
            )

    def _end(self, text: str) -> str:
        self._has_ended = True
        self._lock.release()
        self._on_end()
        return text


def core_shares(jobs: int) -> list[tuple[int, ...]]:
    """Returns the cores of each of `jobs` processes: equally many, at least one.

    Cores that cannot be shared equally stay idle, so that every run has the same
    number whichever place it gets: sums over other numbers of threads are rounded
    otherwise.
    """
    try:
        cores = sorted(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = list(range(usable_cores()))
    if jobs == 1:
        return [tuple(cores)]
    size = max(1, usable_cores() // jobs)
    places = len(cores) // size
    return [
        tuple(cores[(i % places) * size : (i % places + 1) * size]) for i in range(jobs)
    ]


@contextmanager
def _pinned(cores: Sequence[int]) -> Iterator[None]:
    """Processes that this thread starts inside the block run on these cores."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
