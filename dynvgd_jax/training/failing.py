"""Where one process of a run fails, the others end too: soon, and saying why."""

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator

import jax
from jax._src import distributed  # the service's client has no public name

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.training import processes

# Processes that agree on a failure end by themselves within this long.
GRACE_S = 5.0
_LOOK_EVERY_S = 0.5
# The first process, which the others talk through, waits so long for them to leave.
_LEAVE_S = 15.0
_KEYS = "dynvgd_jax/failing"
# How the errors of an exchange with a process that is gone begin or go on.
_LOST = ("Gloo", "NCCL", "coordination service")
_ADVICE = "what was saved is kept; go on with --resume"


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """Ends this process where another one of the run fails while the block runs.

    A process that fails on its own says so to the others, which may be waiting for it
    in an exchange that never ends: they print its words and end with exit code 2.
    With one process this does nothing.

    Raises:
      UserError: another process is gone, as an exchange with it shows.
    """
    if processes.count() == 1:
        yield
        return
    others, over = _Others(), threading.Event()
    arguments = (others, over)
    threading.Thread(target=_watch, args=arguments, name="others", daemon=True).start()
    try:
        yield
    except BaseException as error:
        answer = _lost(error, others)
        others.say("failed", _reason(answer or error))
        atexit.register(_leave, others, _exit_code(answer or error))
        if answer is None:
            raise
        raise answer from error
    finally:
        over.set()


class _Others:
    """What the processes of a run say to each other, beside all exchanges."""

    def __init__(self):
        self._client = distributed.global_state.client

    def say(self, what: str, text: str = "-") -> None:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # nobody is left
            self._client.key_value_set(f"{_KEYS}/{what}/{processes.index()}", text)

    def heard(self, what: str) -> dict[int, str]:
        """Process -> its text, of those that said it."""
        try:
            pairs = self._client.key_value_dir_get(f"{_KEYS}/{what}")
        except jax.errors.JaxRuntimeError:  # nobody is left
            return {}
        return {int(name.rpartition("/")[2]): text for name, text in pairs}


def _watch(others: _Others, over: threading.Event) -> None:
    while not over.wait(_LOOK_EVERY_S):
        failed = others.heard("failed")
        if failed and not over.wait(GRACE_S):
            print(f"launch.py: {_failure(failed)}", file=sys.stderr, flush=True)
            others.say("left")
            os._exit(2)  # the main thread may wait for ever


def _failure(failed: dict[int, str]) -> str:
    number, text = min(failed.items())
    return f"process {number} of this run failed: {text}; {_ADVICE}"


def _lost(error: BaseException, others: _Others) -> UserError | None:
    """The answer where `error` only shows that another process is gone."""
    if not isinstance(error, (RuntimeError, ValueError)):
        return None
    if not any(word in str(error) for word in _LOST):
        return None
    failed = others.heard("failed")
    if failed:
        return UserError(_failure(failed))
    return UserError(
        f"another process of this run is gone, killed perhaps ({_first_line(error)}); "
        f"{_ADVICE}"
    )


def _reason(error: BaseException) -> str:
    text = _first_line(error)
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def _exit_code(error: BaseException) -> int:
    """As `core.command.run_command` answers it."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    answered = isinstance(error, (UserError, OSError, MemoryError))
    return 2 if answered or "RESOURCE_EXHAUSTED" in str(error) else 1


def _leave(others: _Others, exit_code: int) -> None:
    """Ends the process; JAX's own end would wait for those that are gone."""
    others.say("left")
    end = time.monotonic() + _LEAVE_S
    while processes.is_first() and time.monotonic() < end:
        if len(others.heard("left")) == processes.count():
            break
        time.sleep(0.1)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(exit_code)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
