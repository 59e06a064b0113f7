"""Durations, the progress display, what to type next, --quiet."""

import io
import logging
import math
import shlex
from pathlib import Path

import pytest
from rich.console import Console

from dynvgd_jax.core.output import is_quiet, note, quietly
from dynvgd_jax.runs import terminal
from dynvgd_jax.runs.terminal import Progress, duration_text, print_next


def test_duration_texts():
    seconds = [0, 45, 99.6, 720, 5999, 11100, 12_360_000]
    assert [duration_text(s) for s in seconds] == [
        "0 s",
        "45 s",
        "2 min",
        "12 min",
        "1 h 40 min",
        "3 h 05 min",
        "143 d 1 h",
    ]
    assert duration_text(None) == duration_text(math.inf) == "?"


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_rate_and_time_left_follow_the_recent_past():
    clock = Clock()
    progress = Progress(10_000, console=Console(file=io.StringIO()), clock=clock)
    assert progress.rate() is None and "? left" in progress.line()
    for done in range(0, 1001, 100):  # 10 control steps/s for 100 s
        clock.now = 100.0 + done / 10
        progress.update(done, success=0.5)
    assert progress.rate() == pytest.approx(10.0)
    assert progress.line() == (
        "10.0% | success 0.50 | 10.0 control steps/s | 15 min left | 1,000/10,000"
    )
    for step in range(1, 1001):  # then 1 control step/s for 1000 s
        clock.now = 200.0 + step
        progress.update(1000 + step)
    assert progress.rate() == pytest.approx(1.0, rel=0.02)
    clock.now += 150.0  # an evaluation counts: 150 steps in the window's 300 s
    progress.update(2000, stage="evaluating")
    assert progress.rate() == pytest.approx(0.5, rel=0.02)
    clock.now += 10_000.0  # a very long one still leaves an estimate
    progress.update(2000, stage="evaluating")
    assert progress.rate() is not None
    progress.restart_rate()
    assert progress.rate() is None


def test_restarted_rate_forgets_the_work_before():
    clock = Clock()
    progress = Progress(10_000, console=Console(file=io.StringIO()), clock=clock)
    clock.now += 1.0
    progress.update(1000)  # fast first rollouts
    progress.restart_rate()
    clock.now += 50.0
    progress.update(1032)
    assert progress.rate() == pytest.approx(32 / 50)


def test_plain_lines_without_a_terminal_at_most_once_a_minute():
    clock, file = Clock(), io.StringIO()
    with Progress(1000, console=Console(file=file), clock=clock) as progress:
        for second in range(150):
            clock.now = 100.0 + second
            progress.update(second, stage="evaluating [a/2]")
        progress.message("a [note]")
    lines = file.getvalue().splitlines()
    # at 0, 60 and 120 s, the message, and the last state
    assert len(lines) == 5 and lines[3] == "a [note]"
    assert "60/1,000" in lines[1] and "149/1,000" in lines[-1]
    assert "\x1b" not in file.getvalue() and "evaluating [a/2]" in lines[0]


def test_bar_on_a_terminal():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=120)
    with Progress(10, unit="epochs", console=console) as progress:
        progress.update(5, success=1.0, stage="[b]")
        progress.message("a [note]")
    for words in ("50.0% | success 1.00", "5/10 | [b]", "a [note]"):
        assert words in file.getvalue()


def test_a_part_shows_its_own_time_left():
    """10 of 40 episodes in 20 s: 60 s are left; the job's own count stands still."""
    clock, file = Clock(), io.StringIO()
    with Progress(1000, console=Console(file=file), clock=clock) as progress:
        clock.now += 100.0
        progress.update(100, success=0.25)
        with progress.part("evaluating [base]/randn", 40) as part:
            assert "evaluating [base]/randn 0/40, ? left" in progress.line()
            clock.now += 20.0
            part.update(10, success=0.5)
            assert progress.line() == (
                "10.0% | success 0.25 | 0.8 control steps/s | 18 min left | 100/1,000"
                " | evaluating [base]/randn 10/40, success 0.50, 60 s left"
            )
            clock.now += 60.0
            part.update(40, success=0.5)
        assert "evaluating" not in progress.line()
    assert "evaluating [base]/randn 40/40, success 0.50, 0 s left" in file.getvalue()


def test_on_a_terminal_a_part_has_a_bar_of_its_own():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=120)
    with Progress(10, console=console) as progress:
        progress.update(5)
        with progress.part("evaluating [b]", 3) as part:
            part.update(2)
            progress._bar.refresh()
    shown = file.getvalue()
    assert "evaluating [b] 2/3" in shown
    job = [line for line in shown.splitlines() if "50.0%" in line]
    assert job and not any("evaluating" in line for line in job)


def test_short_steps_without_a_terminal_say_nothing():
    clock, file = Clock(), io.StringIO()
    options = {"patience_s": 5.0, "console": Console(file=file), "clock": clock}
    with Progress(3, **options) as progress:
        clock.now += 4.9
        progress.update(3)
    assert file.getvalue() == ""
    with Progress(3, **options) as progress:
        clock.now += 5.1
        progress.update(2)
    assert [line[:5] for line in file.getvalue().splitlines()] == ["66.7%", "66.7%"]


def test_quiet_leaves_errors_and_what_is_always_said(capfd, caplog):
    with quietly():
        with quietly(False):  # nobody inside is louder than the user wishes
            assert is_quiet()
        with Progress(10) as progress:
            progress.update(5)
            progress.message("resumed")
            progress.message("stopped", always=True)
        with Progress(10, quiet=True) as progress:  # another process of the run
            progress.message("stopped twice", always=True)
        note("a note")
        print_next({"look": ("true",)})
        logging.getLogger("dynvgd_jax.x").warning("odd values")
        logging.getLogger("dynvgd_jax.x").error("broken")
    assert not is_quiet()
    assert capfd.readouterr() == ("", "stopped\n")
    assert [record.message for record in caplog.records] == ["broken"]
    note("a note")
    logging.getLogger("dynvgd_jax.x").warning("odd values")
    assert capfd.readouterr().err.startswith("a note\n")
    assert [record.message for record in caplog.records] == ["broken", "odd values"]


def test_the_next_commands_are_words_as_a_shell_takes_them(capsys):
    folder = Path("runs/a b")
    print_next(
        {
            "curves": terminal.curves(folder),
            "held-out episodes": terminal.held_out(folder, eval_seed=0),
        }
    )
    assert capsys.readouterr().out == (
        "curves:            tensorboard '--logdir=runs/a b'\n"
        "held-out episodes: python -m dynvgd_jax.evaluate 'runs/a b' --seed=1\n"
    )
    print_next({})
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("task", ["can", "square", "lift"])
def test_commands_name_configurations_that_are_there(task):
    found = terminal.job(task, "ddim") | terminal.job(task, "pretrain", "--x=1")
    assert shlex.join(found["steer it"]) == (
        f"python -m dynvgd_jax.launch --config=configs/{task}_ddim8.py:quick"
    )
    assert found["pre-train"][3:] == (f"--config=configs/{task}_pretrain.py", "--x=1")
    assert terminal.job("somebody:own", "ddim") == {}


def test_what_a_new_policy_is_good_for_depends_on_its_kind():
    found = terminal.with_policy("square", "flow_mlp", "ckpts/flow", seed=3)
    assert {name: shlex.join(words) for name, words in found.items()} == {
        "episodes": "python -m dynvgd_jax.evaluate ckpts/flow --seed=3",
        "steer it": "python -m dynvgd_jax.launch --config=configs/square_flow.py:quick "
        "--config.base_policy=ckpts/flow",
    }
    assert terminal.with_policy("square", "somebodys", "ckpts/own") == {}


@pytest.mark.parametrize("done", [0, 2])
def test_what_fails_before_any_progress_leaves_its_error_alone(done):
    stream = io.StringIO()
    with pytest.raises(ValueError), Progress(4, console=Console(file=stream)) as bar:
        bar._next_line = math.inf  # so that only the end can speak
        if done:
            bar.update(done)
        raise ValueError
    said = stream.getvalue()
    assert said.startswith("50.0% |") if done else said == ""
