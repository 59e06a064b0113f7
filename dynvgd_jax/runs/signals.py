"""What asks a run to stop: signals, a closed terminal, output that nobody reads."""

import os
import signal
import sys
import threading

from dynvgd_jax.core.output import Output

# A second one of these ends the run at once.
ENDING = (signal.SIGTERM, signal.SIGINT)
# These ask too, but come in numbers (a terminal that closes sends several SIGHUP,
# systemd one beside its SIGTERM), so that they never end a run that is saving.
# SIGUSR1 and SIGUSR2 are what clusters warn with, SIGXCPU comes at `ulimit -t`.
ASKING = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
_STOPPING = "stopping after this step"


class StopSignals:
    """Notes the signals while its `with` block runs; call it to ask for the first.

    Output whose reader is gone (`launch.py 2>&1 | head`) asks like a signal, and fails
    no more: see `Output`.

    Python runs signal handlers between two steps of the main thread, so not while
    XLA computes or compiles. A thread that reads the signals' numbers from a pipe sees
    them at once, which the second signal needs. A signal that is ignored (SIGINT of a
    shell's background job, SIGHUP under nohup) stays ignored, and those of ASKING are
    left to whoever handles them already. Use it in the main thread.
    """

    def __init__(self):
        self._requested = False  # by anything
        self._ending = False  # by one of ENDING

    def __call__(self) -> bool:
        """Whether the run shall stop."""
        return self._requested

    def __enter__(self) -> "StopSignals":
        self._output = Output(self._output_gone)
        self._output.__enter__()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._old_writer = signal.set_wakeup_fd(self._writer)
        ours = [n for n in ENDING if signal.getsignal(n) is not signal.SIG_IGN]
        ours += [n for n in ASKING if signal.getsignal(n) is signal.SIG_DFL]
        self._old_handlers = {n: signal.signal(n, _nothing) for n in ours}
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
        self._output.__exit__(*exception)

    def _output_gone(self, name: str) -> None:
        self._requested = True
        print(f"{name}: nobody reads it any more; {_STOPPING}", file=sys.stderr)

    def _watch(self) -> None:
        while number := os.read(self._reader, 1):
            if number[0] not in self._old_handlers:
                continue
            is_ending = number[0] in ENDING
            if is_ending and self._ending:
                os._exit(128 + number[0])  # as a shell reports the signal
            is_news = is_ending or not self._requested
            self._ending = self._ending or is_ending
            self._requested = True
            if is_news:
                once_more = "; once more ends the run at once" if is_ending else ""
                print(
                    f"{signal.Signals(number[0]).name}: {_STOPPING}{once_more}",
                    file=sys.stderr,
                    flush=True,
                )


def _nothing(number, frame) -> None:
    """Keeps Python's default (an exception, or the process' end) from happening."""
