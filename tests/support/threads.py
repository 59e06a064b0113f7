"""Whether code ends the threads that it starts."""

import contextlib
import threading
import time

import pytest

# A thread that was told to end may be counted for a moment longer.
ENDS_WITHIN_S = 30.0


@contextlib.contextmanager
def no_threads_left():
    """Fails where threads that begin inside are alive long after it."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + ENDS_WITHIN_S
    while left := set(threading.enumerate()) - before:
        if time.monotonic() > deadline:
            pytest.fail(f"found threads left: {sorted(t.name for t in left)}")
        time.sleep(0.01)
