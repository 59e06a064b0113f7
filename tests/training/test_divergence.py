"""A diagnosis names what broke first, since when, and how it was before."""

import math

import pytest

from configs import base
from dynvgd_jax.training.divergence import (
    ValueRange,
    diagnose,
    range_excess,
    range_warning,
    value_range,
)

CALLS = [
    (40, {"train/loss": 1.0, "train/q": -4.0}),
    (48, {"train/loss": 3.0, "train/q": -5.0}),
    (56, {"train/loss": 2.0, "train/q": -math.inf}),
    (64, {"train/loss": math.nan, "train/q": math.nan}),
]


def test_the_first_broken_call_with_statistics_of_those_before():
    # train/q before: -4, -5: mean -4.5, last -5
    assert diagnose(CALLS) == (
        "not finite since 56 control steps: train/q (in 2 training calls before -5 to "
        "-4, mean -4.5, last -5)"
    )


def test_many_names_and_no_past():
    values = {f"q{i}": math.nan for i in range(6)}
    assert diagnose([(8, values)]) == (
        "not finite since 8 control steps: q0; q1; q2; q3; and 2 more"
    )


def test_finite_values_are_no_matter():
    assert diagnose([]) is None
    assert diagnose(CALLS[:2]) is None


def config(**changes):
    found = base.get_config()
    found.update_from_flattened_dict(changes)
    return found


@pytest.mark.parametrize(
    ("changes", "low", "high", "bounded"),
    [
        # 300 control steps are 75 chunks of 4; a lost chunk brings -4
        ({"gamma": 1.0}, -300.0, 0.0, True),
        ({"gamma": 0.5}, -8.0, 0.0, True),  # 4 / (1 - 0.5), less 2^-75
        ({"gamma": 0.97, "bootstrap_at_time_limit": True}, -4 / 0.03, 0.0, True),
        ({"gamma": 0.97}, -4 * (1 - 0.97**75) / 0.03, 0.0, True),
        ({"gamma": 1.0, "bootstrap_at_time_limit": True}, -300.0, 0.0, False),
        ({"gamma": 1.0, "reward_offset": 0.0}, 0.0, 300.0, True),
        ({"gamma": 1.0, "reward_offset": 0.25}, -75.0, 225.0, True),
        # 2 would be no reward of a control step, so that each chunk brings -8 to -4;
        # an episode that ends has no chunk left
        ({"gamma": 1.0, "reward_offset": 2.0}, -600.0, 0.0, True),
        ({"gamma": 1.0, "reward_offset": -1.0}, 0.0, 600.0, True),
        ({"gamma": 1.0, "target_n_step": 30, "end_at_success": True}, -300, 0, True),
        ({"gamma": 0.0}, -4.0, 0.0, True),
    ],
)
def test_the_range_of_values_by_hand(changes, low, high, bounded):
    found = value_range(config(**changes), chunk_len=4, max_episode_env_steps=300)
    assert found == (pytest.approx(low), pytest.approx(high), bounded)


def test_an_episode_that_is_no_multiple_of_a_chunk_counts_its_last_one():
    found = value_range(config(gamma=1.0), chunk_len=8, max_episode_env_steps=20)
    assert found.low == -24.0


@pytest.mark.parametrize(
    ("q", "warns"),
    [(-9160.0, True), (-335.0, True), (-325.0, False), (-4.0, False), (25.0, False),
     (31.0, True), (math.inf, True)],
)  # fmt: skip
def test_values_outside_the_range_are_named(q, warns):
    allowed = value_range(config(gamma=1.0, target_clip=0.0), 4, 300)
    scalars = {"train/q0_mean": -100.0, "train/q13_mean": q, "train/critic_loss": 1e9}
    text = range_warning(scalars, allowed)
    assert (text is not None) == warns
    if warns:
        assert "rewards and discount allow -300 to 0" in text and "\n" not in text
        assert f"{q:.4g}" in text


def test_how_far_out_in_widths_of_the_range():
    allowed = ValueRange(-300.0, 0.0, bounded=True)
    assert range_excess({"train/q0_mean": -600.0, "train/q1_mean": 9}, allowed) == 1
    assert range_excess({"train/q0_mean": -1.0, "guide/q_pre": 999}, allowed) == 0
    assert range_excess({}, allowed) == 0
    assert range_warning({}, allowed) is None


def test_values_that_nothing_bounds_are_named_with_the_remedy():
    allowed = value_range(config(gamma=1.0, bootstrap_at_time_limit=True), 4, 300)
    text = range_warning({"train/q0_mean": -9160.0}, allowed)
    assert "gamma = 1 and bootstrap_at_time_limit nothing bounds them" in text
    assert range_warning({"train/q0_mean": -150.0}, allowed) is None
