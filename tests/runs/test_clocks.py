"""Due counts and wall-clock shares, worked by hand with a clock of our own."""

import pytest

from dynvgd_jax.runs.clocks import Clocks, Due


def test_due_once_per_multiple_even_if_steps_jump():
    due = Due(100)
    # 96 no; 128 passes 100; 160 no; 320 passes 200 and 300, once; 400 exactly.
    assert [due(n) for n in (32, 96, 128, 160, 320, 400)] == [0, 0, 1, 0, 1, 1]


def test_shares_and_time_line_by_hand():
    now = [0.0]
    clocks = Clocks(
        ("act", "update", "eval"),
        clock=lambda: now[0],
        first_step=100,
        round_steps=50,
        apart=("eval",),
    )
    with clocks.measure("act"):
        now[0] = 2.0
    now[0] = 3.0
    with clocks.measure("update"):
        now[0] = 7.0
    with clocks.measure("eval"):
        now[0] = 8.0
    report = clocks.report(500)
    # 2, 4 and 1 s of 8 s, 400 steps in 8 s; 8 rounds, of the 1 s left 1/8 in each.
    assert report == {
        "time/act_share": pytest.approx(0.25),
        "time/update_share": pytest.approx(0.5),
        "time/eval_share": pytest.approx(0.125),
        "time/act_ms": pytest.approx(250.0),
        "time/update_ms": pytest.approx(500.0),
        "time/idle_ms": pytest.approx(125.0),
        "time/control_steps_per_s": pytest.approx(50.0),
    }
    now[0] = 12.0
    after = clocks.report(700)
    assert after["time/control_steps_per_s"] == pytest.approx(50.0)
    # 4 s of 4 rounds
    assert (after["time/act_ms"], after["time/idle_ms"]) == (0.0, pytest.approx(1e3))
