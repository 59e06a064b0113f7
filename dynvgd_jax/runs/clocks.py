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
    """Wall-clock time by activity since the last report.

    Beside shares it tells the time line of a round, a vector step: the milliseconds of
    each activity in it, and what is left, when nothing was measured (logs, checkpoints,
    the loop itself).
    """

    def __init__(
        self,
        activities: tuple[str, ...],
        clock=time.perf_counter,
        first_step: int = 0,
        round_steps: int = 1,
        apart: tuple[str, ...] = (),
    ):
        """Starts now.

        Args:
          activities: their names.
          clock: seconds.
          first_step: control steps so far.
          round_steps: control steps of one round.
          apart: activities between rounds, which are no part of one.
        """
        self._clock, self._round_steps, self._apart = clock, round_steps, apart
        self._seconds = dict.fromkeys(activities, 0.0)
        self._start, self._first_step = clock(), first_step

    @contextmanager
    def measure(self, activity: str):
        """Adds the time spent inside the `with` block to `activity`."""
        start = self._clock()
        yield
        self._seconds[activity] += self._clock() - start

    def report(self, env_steps: int) -> dict[str, float]:
        """Returns the scalars `time/*`, and starts anew."""
        now, spent = self._clock(), self._seconds
        elapsed = max(now - self._start, 1e-9)
        steps = env_steps - self._first_step
        rounds = max(steps / self._round_steps, 1.0)
        line = {n: s for n, s in spent.items() if n not in self._apart}
        line["idle"] = elapsed - sum(spent.values())
        self._seconds = dict.fromkeys(spent, 0.0)
        self._start, self._first_step = now, env_steps
        return {
            **{f"time/{n}_share": s / elapsed for n, s in spent.items()},
            **{f"time/{n}_ms": 1e3 * s / rounds for n, s in line.items()},
            "time/control_steps_per_s": steps / elapsed,
        }
