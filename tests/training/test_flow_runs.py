"""Whole runs that steer a flow policy: broken off and resumed, loaded, guided."""

import json

import numpy as np
import pytest

from dynvgd_jax.agent import load_agent
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.training.loop import train
from tests.support.reach import PowerCutError, ReachEnv, breaking
from tests.support.same_run import assert_equal_runs
from tests.support.tiny_run import random_policy, tiny

pytestmark = pytest.mark.usefixtures("shared_programs")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    policy = random_policy(tmp_path_factory.mktemp("flow") / "p", kind="flow_mlp")
    return tiny(policy, policy_kind="flow_mlp", **{"guidance.scale": 0.05})


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    train(config, folder, make_env=ReachEnv)
    return folder


@pytest.mark.slow
def test_a_run_broken_in_training_goes_on_bit_for_bit(config, run, tmp_path):
    with pytest.raises(PowerCutError):
        train(config, tmp_path / "run", make_env=breaking(16 + 8 + 17))
    train(config, tmp_path / "run", make_env=ReachEnv, resume=True)
    assert_equal_runs(tmp_path / "run", run)


def test_a_loaded_agent_guides_and_without_guidance_is_the_policy(run):
    agent, rng = load_agent(run), np.random.default_rng(0)
    obs, noise = rng.uniform(-1, 1, (5, 4)), rng.normal(size=(5, 4, 2))
    plain = agent.policy.sample(obs, noise, 2)
    assert agent.policy.kind == "flow_mlp"
    assert np.abs(agent.act(obs, noise) - plain).max() > 1e-3
    unguided = load_agent(run, {"guidance.scale": 0.0}).act(obs, noise)
    np.testing.assert_allclose(unguided, plain, atol=2e-6)


def test_a_run_does_not_go_on_with_the_other_kind(config, run, toy_policy, tmp_path):
    other = tiny(toy_policy, policy_kind="flow_mlp", **{"guidance.scale": 0.05})
    with pytest.raises(UserError, match=r"holds another policy.*kind"):
        train(other, run, make_env=ReachEnv, resume=True)
    description = json.loads((run / "policy/policy.json").read_text())
    assert description["kind"] == "flow_mlp"


def test_a_run_meant_for_the_other_kind_begins_nothing(toy_policy, tmp_path):
    config = tiny(toy_policy, policy_kind="flow_mlp")
    with pytest.raises(UserError, match="expected 'flow_mlp'"):
        train(config, tmp_path / "run", make_env=ReachEnv)
    assert not (tmp_path / "run").exists()
