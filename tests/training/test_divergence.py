"""A diagnosis names what broke first, since when, and how it was before."""

import math

from dynvgd_jax.training.divergence import diagnose

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
