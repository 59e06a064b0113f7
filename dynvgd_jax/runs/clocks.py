"""When things are due, and where the time goes."""

import time
from contextlib import contextmanager


class Due:
    """Tells when a count, rising from `start`, has passed a multiple of `every`."""

    def __init__(self, every: int, start: int = 0):
        self._every = every
        self._passed = start // every

    def __call__(self, count: int) -> bool:
        passed = count // self._every
        due = passed > self._passed
        self._passed = passed
        return due


class Clocks:
    """Wall-clock time by activity since the last report."""

    def __init__(
        self, activities: tuple[str, ...], clock=time.perf_counter, first_step=0
    ):
        self._clock = clock
        self._seconds = dict.fromkeys(activities, 0.0)
        self._start, self._first_step = clock(), first_step

    @contextmanager
    def measure(self, activity: str):
        """Adds the time spent inside the `with` block to `activity`."""
        start = self._clock()
        yield
        self._seconds[activity] += self._clock() - start

    def report(self, env_steps: int) -> dict[str, float]:
        """Returns shares of wall-clock time and control steps/s, and starts anew."""
        now = self._clock()
        elapsed = max(now - self._start, 1e-9)
        shares = {f"time/{n}_share": s / elapsed for n, s in self._seconds.items()}
        rate = (env_steps - self._first_step) / elapsed
        self._seconds = dict.fromkeys(self._seconds, 0.0)
        self._start, self._first_step = now, env_steps
        return shares | {"time/control_steps_per_s": rate}
