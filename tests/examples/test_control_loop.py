"""The example of a control loop runs in robosuite's own environment."""

import re

from examples import control_loop
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
