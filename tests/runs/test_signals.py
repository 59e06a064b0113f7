"""What asks a run to stop, and what ends it at once."""

import errno
import io
import os
import signal
import subprocess
import sys
import time

import pytest

from dynvgd_jax.runs.signals import ASKING, StopSignals
from tests.support import command

# Says so once it is asked, then counts on: whoever ends it early stops the counting.
COUNTER = """
import time
from dynvgd_jax.runs.signals import StopSignals

with StopSignals() as stop:
    print("ready", flush=True)
    while not stop():
        time.sleep(0.01)
    print("asked", flush=True)
    time.sleep(1)
    print("saved", flush=True)
"""


@pytest.fixture(autouse=True)
def hangup_as_in_a_terminal():
    """Children inherit it from these tests, which may run under nohup themselves."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def counter(**options):
    process = subprocess.Popen(
        [sys.executable, "-c", COUNTER],
        cwd=command.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def send(process, *names):
    for name in names:
        process.send_signal(signal.Signals[name])
        time.sleep(0.05)  # pending signals of one number are one


@pytest.mark.parametrize(
    "names",
    [
        ("SIGHUP", "SIGHUP", "SIGHUP"),  # a terminal that closes, and its shell
        ("SIGHUP", "SIGTERM", "SIGHUP"),  # systemd's end of a session
        ("SIGTERM", "SIGHUP"),
        ("SIGUSR1", "SIGTERM"),  # a cluster's warning, then its limit
        ("SIGUSR2",),
        ("SIGXCPU", "SIGXCPU"),  # one a second
    ],
)
def test_what_comes_in_numbers_lets_the_run_save(names):
    process = counter()
    try:
        send(process, *names)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert output == "asked\nsaved\n" and process.returncode == 0
    assert errors.startswith(f"{names[0]}: stopping after this step")
    assert errors.count("SIGHUP") <= 1


def test_a_second_sigterm_still_ends_at_once():
    process = counter()
    try:
        send(process, "SIGHUP", "SIGTERM", "SIGTERM")
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert output == "asked\n" and process.returncode == 128 + signal.SIGTERM


def test_sighup_is_ignored_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as a child inherits it
    try:
        process = counter()
    finally:
        signal.signal(signal.SIGHUP, before)
    try:
        send(process, "SIGHUP")
        time.sleep(0.3)
        assert process.poll() is None
        send(process, "SIGTERM")
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert errors.startswith("SIGTERM") and "SIGHUP" not in errors


def test_signals_that_others_handle_stay_theirs():
    mine = []
    before = signal.signal(signal.SIGUSR1, lambda *_: mine.append(1))
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert mine == [1] and not stop()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert all(signal.getsignal(n) is not None for n in ASKING)


class Broken(io.StringIO):
    def write(self, text):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_output_without_a_reader_asks(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Broken())
    with StopSignals() as stop:
        assert not stop()
        print("progress")
        assert stop()
        print("more")
    assert capsys.readouterr().err == (
        "stdout: nobody reads it any more; stopping after this step\n"
    )
