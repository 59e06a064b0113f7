"""The example of a control loop runs in robosuite's own environment."""

import os
import re
import subprocess
import sys

import pytest

from dynvgd_jax.core.errors import UserError
from examples import control_loop
from tests.support.command import ROOT
from tests.support.saved_run import saved_run


def test_plays_in_real_time(tmp_path, capsys):
    folder = saved_run(tmp_path / "run")
    control_loop.main([str(folder), "--episodes=1", "--max_steps=12", "--execute=2"])
    first, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"episode 0: no success after 12 control steps, \d+ deadlines missed", first
    )
    assert last.startswith("success in 0 of 1 episodes; ")
    assert "of 12 deadlines of 50 ms missed; an action is there after p50" in last


class Env:
    """Succeeds at its 5th step; the 2nd takes longer than a period."""

    def reset(self):
        self.steps = 0
        return self.steps

    def step(self, action):
        self.steps += 1
        self.clock.now += 0.12 if self.steps == 2 else 0.01
        return self.steps, 0.0, False, {}

    def _check_success(self):
        return self.steps == 5


class Clock:
    now = 0.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Counting:
    def actions(self, observe, seed, execute):
        while True:
            yield observe()


def test_deadlines_by_hand(monkeypatch):
    """Steps end at 0.01, 0.17, ...: the 2nd misses its 0.1, and no other does."""
    env, clock = Env(), Clock()
    env.clock = clock
    monkeypatch.setattr(control_loop, "time", clock)
    found = control_loop.play(env, Counting(), 0, 400, None)
    success, steps, late, decision_ms = found
    assert (success, steps, late, decision_ms) == (True, 5, 1, [0.0] * 5)
    # 0.05, then 0.17 (late), then three periods more
    assert abs(clock.now - 0.32) < 1e-9
    assert control_loop.play(env, Counting(), 0, 3, None)[:2] == (False, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--execute=0"], "--execute: found 0, expected at least 1"),
        (["--episodes=0"], "--episodes: found 0, expected at least 1"),
        (["--max_steps=0"], "--max_steps: found 0"),
        (["--seed=-1"], "--seed: found -1, expected 0 to 4294967293"),
        (["--seed=4294967294"], "--seed: found 4294967294"),
    ],
)
def test_numbers_out_of_range_are_named_before_anything_is_loaded(arguments, words):
    with pytest.raises(UserError, match=words):
        control_loop.main(["no such run", "--episodes=3", *arguments])


def test_more_actions_than_a_chunk_has(tmp_path):
    folder = saved_run(tmp_path / "run")
    with pytest.raises(UserError, match="--execute: found 5, expected at most the 4"):
        control_loop.main([str(folder), "--execute=5"])


def test_starts_as_its_documentation_says():
    """From the clone's folder, with the package on no path."""
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", "examples.control_loop", "RUN", "--episodes=0"],
        cwd=ROOT,
        env=variables | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    words = "control_loop.py: --episodes: found 0, expected at least 1\n"
    assert (done.returncode, done.stderr) == (2, words)
