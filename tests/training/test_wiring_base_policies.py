"""The built-in policies succeed in robosuite as often as docs/base_policies.md says."""

import math
import re

import pytest

from configs import base
from dynvgd_jax.training.loop import train
from tests.support.command import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("polished_programs")]
DEVIATIONS = 3.0
NOISES = ("randn", "tanh_randn")  # the columns of the table
# Row of the table -> DDIM steps, episodes here, and from which noises. Transport's take
# long, and from `randn` few succeed.
ROWS = {
    "Lift": (8, 60, NOISES),
    "Can": (8, 60, NOISES),
    "Square": (8, 60, NOISES),
    "Transport, 10 DDIM steps": (10, 16, ("tanh_randn",)),
}


def documented(row):
    """Episodes, and start noise -> share with a whole successful chunk."""
    text = (ROOT / "docs" / "base_policies.md").read_text()
    name = rf"^\| {row}(?:; (\d+) episodes)? \|"
    (found,) = re.findall(rf"{name} ([\d.]+) \[.*\| ([\d.]+) \[", text, re.M)
    return int(found[0] or 400), dict(zip(NOISES, map(float, found[1:]), strict=True))


@pytest.mark.parametrize("row", ROWS)
def test_a_built_in_policy_succeeds_as_documented(row, tmp_path):
    """Within 3 standard deviations of the difference of two binomial shares."""
    ddim_steps, episodes, noises = ROWS[row]
    config = base.get_config()
    config.task, config.method = row.split(",")[0].lower(), "base"
    config.num_envs, config.ddim_steps = 1, ddim_steps
    config.eval.episodes, config.eval.num_envs = episodes, 12
    config.eval.noises = noises
    (summaries,) = train(config.lock(), tmp_path / "run").values()
    documented_episodes, expected = documented(row)
    assert [s.policy for s in summaries] == [f"base/{noise}" for noise in noises]
    for noise, summary in zip(noises, summaries, strict=True):
        rate = expected[noise]
        variance = rate * (1 - rate) * (1 / episodes + 1 / documented_episodes)
        found = summary.success_chunk / summary.episodes
        assert abs(found - rate) < DEVIATIONS * math.sqrt(variance), (noise, found)
        assert summary.faults == 0 and summary.success_any > 0
