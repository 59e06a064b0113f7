"""Stored proposals must be those of their observation, or the run learns to fail."""

import jax
import numpy as np
import pytest

from configs import base
from dynvgd_jax.agent import load_agent
from dynvgd_jax.training import loop
from tests.support import fork
from tests.support.fork import ForkEnv

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("polished_programs", "shared_programs"),
]

ENVS = 16
VECTOR_STEP = ENVS * fork.CHUNK


def config_of(folder):
    config = base.get_config()
    settings = {
        "base_policy": str(fork.save_policy(folder / "policy")),
        "method": "best_of_n",
        "ddim_steps": 1,
        "num_envs": ENVS,
        "first_rollout_env_steps": 10 * VECTOR_STEP,
        "total_env_steps": 80 * VECTOR_STEP,
        "reward_offset": 0.0,
        "utd": 8,
        "batch_size": 64,
        "gamma": 0.9,
        "learning_rate": 3e-3,
        "target_tau": 0.05,
        "target_backup": "max",
        "target_reduce": "mean",
        "critic.num": 2,
        "critic.width": 32,
        "critic.depth": 2,
        "guidance.candidates": 6,
        "guidance.reduce": "mean",
        "guidance.last_k": 1,
        "replay.offline_dataset": str(fork.save_pulls(folder / "pulls.npz")),
        "eval.noises": ("tanh_randn",),
        "eval.episodes": 200,
        "eval.num_envs": 200,
        "eval.every_env_steps": 10**9,
        "checkpoint.every_env_steps": 10**9,
        "log.every_env_steps": 10**9,
    }
    config.update_from_flattened_dict(settings)
    return config.lock()


def summaries(config, folder):
    """Of the base policy's evaluation and of the steered one's."""
    (found,) = loop.train(config, folder, make_env=ForkEnv).values()
    return found


def value_of_roads(folder):
    """Of the good road and of the dead end at a fork, mean of both sides."""
    agent = load_agent(folder)
    obs = np.float32([[side, 0, 0, 0] for side in (1, -1)])
    turns = 0.3 * np.ones((2, fork.CHUNK, 1), np.float32) * obs[:, :1, None]
    value = jax.jit(agent.method.value)
    return [
        float(value(agent.learner, obs, sign * turns).combined.mean())
        for sign in (1, -1)
    ]


def test_proposals_of_other_observations_lead_into_the_dead_end(tmp_path, monkeypatch):
    config = config_of(tmp_path)
    before, after = summaries(config, tmp_path / "own")

    original = loop.with_proposals

    def mixed_up(run, stepped):
        def rolled(transition):
            next_extras = {
                name: np.roll(leaf, 1, axis=0)
                for name, leaf in transition.next_extras.items()
            }
            return transition._replace(next_extras=next_extras)

        return [(rolled(t), ends) for t, ends in original(run, stepped)]

    monkeypatch.setattr(loop, "with_proposals", mixed_up)
    _, mixed = summaries(config, tmp_path / "mixed")

    # Of 200 episodes: the frozen policy takes either road, with a deviation of 7; one
    # of six proposals leads where it shall but for 1/64.
    assert 72 < before.success_chunk < 128
    assert after.success_chunk > 190
    assert mixed.success_chunk < 30
    # A chunk later 4 GOOD and nothing; with another's proposals, of which about half
    # open the gate, half of 4 GOOD and of 4 DEAD_END.
    np.testing.assert_allclose(value_of_roads(tmp_path / "own"), [1.8, 0], atol=0.3)
    good, dead_end = value_of_roads(tmp_path / "mixed")
    assert good < 1.2 and dead_end > good + 0.5
