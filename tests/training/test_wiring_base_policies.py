"""The built-in policies succeed in robosuite as often as docs/base_policies.md says."""

import math
import re

import pytest

from configs import base
from dynvgd_jax.training.loop import train
from tests.support.command import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("polished_programs")]
EPISODES, DOCUMENTED_EPISODES = 60, 400
DEVIATIONS = 3.0
NOISES = ("randn", "tanh_randn")  # the columns of the table


def documented(task):
    """Start noise -> share of episodes with a whole successful chunk, DDIM 8."""
    text = (ROOT / "docs" / "base_policies.md").read_text()
    (rates,) = re.findall(rf"^\| {task} \| ([\d.]+) \[.*\| ([\d.]+) \[", text, re.M)
    return dict(zip(NOISES, map(float, rates), strict=True))


@pytest.mark.parametrize("task", ["Lift", "Can", "Square"])
def test_a_built_in_policy_succeeds_as_documented(task, tmp_path):
    """Within 3 standard deviations of the difference of two binomial shares."""
    config = base.get_config()
    config.task, config.method, config.num_envs = task.lower(), "base", 1
    config.ddim_steps = 8
    config.eval.episodes, config.eval.num_envs = EPISODES, 12
    config.eval.noises = NOISES
    (summaries,) = train(config.lock(), tmp_path / "run").values()
    expected = documented(task)
    assert [s.policy for s in summaries] == [f"base/{noise}" for noise in NOISES]
    for noise, summary in zip(NOISES, summaries, strict=True):
        rate = expected[noise]
        variance = rate * (1 - rate) * (1 / EPISODES + 1 / DOCUMENTED_EPISODES)
        found = summary.success_chunk / summary.episodes
        assert abs(found - rate) < DEVIATIONS * math.sqrt(variance), (noise, found)
        assert summary.faults == 0
