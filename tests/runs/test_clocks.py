"""Due counts and wall-clock shares, worked by hand with a clock of our own."""

import pytest

from dynvgd_jax.runs.clocks import Clocks, Due


def test_due_once_per_multiple_even_if_steps_jump():
    due = Due(100)
    # 96 no; 128 passes 100; 160 no; 320 passes 200 and 300, once; 400 exactly.
    assert [due(n) for n in (32, 96, 128, 160, 320, 400)] == [0, 0, 1, 0, 1, 1]


def test_shares_by_hand():
    now = [0.0]
    clocks = Clocks(("act", "update"), clock=lambda: now[0])
    with clocks.measure("act"):
        now[0] = 2.0
    now[0] = 3.0
    with clocks.measure("update"):
        now[0] = 8.0
    report = clocks.report(400)
    # 2 s and 5 s of 8 s, 400 steps in 8 s.
    assert report == {
        "time/act_share": pytest.approx(0.25),
        "time/update_share": pytest.approx(0.625),
        "time/control_steps_per_s": pytest.approx(50.0),
    }
    now[0] = 12.0
    assert clocks.report(600)["time/control_steps_per_s"] == pytest.approx(50.0)
