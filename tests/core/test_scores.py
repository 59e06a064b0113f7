"""D4RL's normalised score by hand, and which tasks are judged by what."""

import numpy as np
import pytest

from dynvgd_jax.core import scores


def test_the_score_by_hand():
    # hopper: (1607.01385 + 20.272305) / (3234.3 + 20.272305) = 1627.286 / 3254.572
    assert scores.normalised_score("hopper", 1607.01385) == pytest.approx(50, abs=1e-4)
    found = scores.normalised_score("gym:Walker2d-v5", [1.629008, 4592.3])
    np.testing.assert_allclose(found, [0, 100])
    # (0 + 280.178953) / 12415.178953
    assert scores.normalised_score("halfcheetah", 0.0) == pytest.approx(2.256745)


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("can", scores.SUCCESS),
        ("transport", scores.SUCCESS),
        ("hopper", scores.SCORE),
        ("gym:Ant-v5", scores.SCORE),
        ("gym:Pendulum-v1", scores.RETURN),
    ],
)
def test_what_tasks_are_judged_by(task, kind):
    assert scores.measure(task) == kind
    assert scores.judged_by_return(task) == (kind != scores.SUCCESS)
