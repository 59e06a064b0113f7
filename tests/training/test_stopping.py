"""Runs that are asked to stop: everything is saved, and they go on bit for bit."""

import itertools
import signal
import subprocess
import sys

import pytest

from dynvgd_jax.core.output import quietly
from dynvgd_jax.runs.signals import StopSignals
from dynvgd_jax.training.loop import train
from tests.support import command
from tests.support.reach import ReachEnv
from tests.support.same_run import assert_equal_runs
from tests.support.tiny_run import VECTOR_STEP

pytestmark = pytest.mark.usefixtures("shared_programs")

# The run asks once a chunk of an evaluation (8) and once a vector step (24). Where each
# stop falls: the second evaluation of the base policy, the first rollouts, the first
# evaluation of the steered one, learning, the last evaluation.
ASKS = (8 + 3, 8 + 4, 9 + 4, 8 + 7, 6 + 5)
STOPPED_AT = (0, 3, 12, 18, 24)
EPISODES = (3, 6, 6, 9, 9)  # evaluations of 3 that are kept by then


@pytest.mark.slow
def test_a_run_stopped_everywhere_equals_one_that_was_not(
    toy_config, finished_run, tmp_path, capsys
):
    folder = tmp_path / "run"
    for number, asks in enumerate(ASKS):
        count = itertools.count(1)
        options = dict(resume=number > 0, stop=lambda: next(count) >= asks)  # noqa: B023
        train(toy_config, folder, make_env=ReachEnv, **options)
        steps = STOPPED_AT[number] * VECTOR_STEP
        line = f"stopped at {steps:,} control steps, everything is saved"
        assert line in capsys.readouterr().err
        assert (folder / "checkpoints" / str(steps)).is_dir()
        rows = (folder / "eval.csv").read_text().count("\n") - 1
        assert rows == EPISODES[number]
    train(toy_config, folder, make_env=ReachEnv, resume=True)
    assert_equal_runs(folder, finished_run)


def test_a_quiet_run_says_that_it_was_stopped(toy_config, tmp_path, capsys):
    with quietly():
        train(toy_config, tmp_path, make_env=ReachEnv, stop=lambda: True)
    said = capsys.readouterr()
    assert said.err == (
        "stopped at 0 control steps, everything is saved; the same command with "
        "--resume goes on\n"
    )
    assert said.out == ""


def test_speed_of_a_resumed_run_leaves_out_what_was_done_before(
    toy_config, tmp_path, capsys
):
    count = itertools.count(1)
    stops = [lambda: next(count) >= 20, lambda: True]
    for resume, stop in enumerate(stops):
        train(toy_config, tmp_path, make_env=ReachEnv, resume=bool(resume), stop=stop)
    line = capsys.readouterr().err.splitlines()[-1]
    # 16 asks of the base policy's evaluations, the 20th comes after 3 of 24 steps.
    assert line.startswith("12.5% |") and "| - control steps/s | ? left |" in line


@pytest.mark.slow
def test_sigterm_ends_the_command_with_code_0_and_resume_goes_on(
    toy_config, finished_run, tmp_path
):
    arguments = [
        command.BASE,
        *command.flags(toy_config),
        f"--workdir={tmp_path / 'run'}",
    ]
    code, _, errors = command.run(arguments, SIGNAL_AT=120)
    assert code == 0, errors
    assert "SIGTERM: stopping after this step" in errors
    assert "the same command with --resume goes on" in errors
    code, output, errors = command.run([*arguments, "--resume"])
    assert code == 0 and "Success with 95 % intervals" in output, errors
    text = (tmp_path / "run" / "eval.csv").read_text()
    assert text == (finished_run / "eval.csv").read_text()


SLEEPER = """
import hashlib, signal, time
from dynvgd_jax.core.output import quietly
from dynvgd_jax.runs.signals import StopSignals

# a shell's background job inherits an ignored SIGINT
signal.signal(signal.SIGINT, signal.default_int_handler)
with StopSignals() as stop:
    print("ready", flush=True)
    while not stop():
        time.sleep(0.01)
    print("asked", flush=True)
    # one long call without the GIL, as XLA's: no handler of Python's runs meanwhile
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


@pytest.mark.parametrize("numbers", [("SIGTERM",) * 2, ("SIGINT", "SIGTERM")])
def test_a_second_signal_ends_the_process_at_once(numbers):
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER],
        cwd=command.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.Signals[numbers[0]])
        assert process.stdout.readline() == "asked\n"
        process.send_signal(signal.Signals[numbers[1]])
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.Signals[numbers[1]]
    assert errors.startswith(f"{numbers[0]}: stopping after this step")


def test_handlers_come_back_and_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        term = signal.getsignal(signal.SIGTERM)
        with StopSignals() as stop:
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not term
            assert not stop()
        assert signal.getsignal(signal.SIGTERM) is term
    finally:
        signal.signal(signal.SIGINT, before)
