"""SIGTERM and SIGINT ask a run to stop; the second one ends it at once."""

import os
import signal
import sys
import threading

STOPPING = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Counts the signals while its `with` block runs; call it to ask for the first.

    Python runs signal handlers between two steps of the main thread, so not while
    XLA computes or compiles. A thread that reads the signals' numbers from a pipe sees
    them at once, which the second signal needs. A signal that is ignored (SIGINT of a
    shell's background job) stays ignored. Use it in the main thread.
    """

    def __init__(self):
        self._requested = False

    def __call__(self) -> bool:
        """Whether the run shall stop."""
        return self._requested

    def __enter__(self) -> "StopSignals":
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._old_writer = signal.set_wakeup_fd(self._writer)
        self._old_handlers = {
            number: signal.signal(number, _nothing)
            for number in STOPPING
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        self._thread = threading.Thread(target=self._watch, name="signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_writer)
        os.close(self._writer)
        self._thread.join()
        os.close(self._reader)

    def _watch(self) -> None:
        while number := os.read(self._reader, 1):
            if number[0] not in self._old_handlers:
                continue
            if self._requested:
                os._exit(128 + number[0])  # as a shell reports the signal
            self._requested = True
            print(
                f"{signal.Signals(number[0]).name}: stopping after this step; once "
                "more ends the run at once",
                file=sys.stderr,
                flush=True,
            )


def _nothing(number, frame) -> None:
    """Keeps Python's default (an exception, or the process' end) from happening."""
