"""Learned edits improve a policy whose proposals are all too timid to choose from.

On the analytic task of tests/support/reach.py the frozen policy makes for the goal so
slowly that no choice among its proposals gets there; a step of 0.2 more does. The mean
return is minus the sum of the 32 distances: some -17 for the policy alone.
"""

import numpy as np
import pytest

from configs import base
from dynvgd_jax.steering import edit
from dynvgd_jax.training.loop import train
from tests.support.linear_policy import save_linear_policy
from tests.support.reach import ReachEnv

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("polished_updates")]

NUM_ENVS, CHUNK = 16, ReachEnv.sizes.chunk_len
VECTOR_STEP = NUM_ENVS * CHUNK
SEEDS = 3


@pytest.fixture(scope="module")
def timid(tmp_path_factory):
    """0.3 times the way to the goal, and a tenth of the start noise."""
    way = np.tile(np.eye(2), CHUNK)
    folder = tmp_path_factory.mktemp("timid") / "policy"
    obs_gain = 0.3 * np.concatenate([-way, way])
    return save_linear_policy(folder, 0.1, obs_gain, CHUNK)


def steered(policy, folder, **changes):
    """Gain in mean return over the base policy, one a seed, and the steered success."""
    config = base.get_config()
    settings = {
        "base_policy": str(policy),
        "ddim_steps": 1,
        "num_seeds": SEEDS,
        "num_envs": NUM_ENVS,
        "first_rollout_env_steps": 20 * VECTOR_STEP,
        "total_env_steps": 160 * VECTOR_STEP,
        "utd": 8,
        "batch_size": 64,
        "gamma": 0.9,
        "learning_rate": 1e-3,
        "target_tau": 0.02,
        "target_backup": "max",
        "target_reduce": "mean",
        "bootstrap_at_time_limit": True,
        "critic.width": 64,
        "critic.depth": 2,
        "guidance.candidates": 4,
        "guidance.last_k": 1,
        "guidance.reduce": "mean",
        "guidance.critics": "target",
        "edit.max_step": 0.2,
        "edit.penalty": 0.5,
        "edit.width": 64,
        "edit.depth": 2,
        "eval.noises": ("tanh_randn",),
        "eval.episodes": 100,
        "eval.num_envs": 100,
        "eval.every_env_steps": 10**9,
        "checkpoint.every_env_steps": 10**9,
        "log.every_env_steps": 40 * VECTOR_STEP,
    }
    config.update_from_flattened_dict(settings | changes)
    found = train(config.lock(), folder, make_env=ReachEnv).values()
    gains = [after.mean_return - before.mean_return for before, after in found]
    return np.array(gains), np.array([after.success_any for _, after in found])


@pytest.fixture(scope="module")
def choice(timid, tmp_path_factory):
    folder = tmp_path_factory.mktemp("choice") / "run"
    return steered(timid, folder, method="best_of_n")


def test_edits_get_where_no_proposal_leads(timid, choice, tmp_path):
    chosen, chosen_success = choice
    gain, success = steered(timid, tmp_path / "run", method="edit")
    assert (chosen > 0).all(), chosen
    assert (gain > chosen + 2.0).all(), (gain, chosen)
    assert (success > chosen_success + 20).all(), (success, chosen_success)


def test_edits_against_the_gradient_do_not(timid, choice, tmp_path, monkeypatch):
    """The critics do not choose them, so that the choice among proposals is left."""
    own = edit.edit_loss
    monkeypatch.setattr(
        edit,
        "edit_loss",
        lambda value, *others: own(-value, *others),
    )
    chosen, _ = choice
    gain, _ = steered(timid, tmp_path / "run", method="edit")
    assert (gain < chosen + 1.0).all(), (gain, chosen)
