"""Whole runs of the edit: broken off and resumed, loaded, audited, of before it."""

import json
import shutil

import jax
import numpy as np
import pytest

from dynvgd_jax.agent import load_agent
from dynvgd_jax.audit.subject import make_subject
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.training.loop import train
from tests.support.reach import PowerCutError, ReachEnv, breaking
from tests.support.same_run import assert_equal_runs, scalars
from tests.support.tiny_run import PROPOSALS, tiny

pytestmark = pytest.mark.usefixtures("shared_programs")


@pytest.fixture(scope="module")
def config(toy_policy, tmp_path_factory):
    """With offline transitions, whose proposals are edited too."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("offline") / "offline.npz"
    np.savez(
        path,
        states=rng.uniform(-1, 1, (20, 4)),
        states_next=rng.uniform(-1, 1, (20, 4)),
        actions=rng.uniform(-1, 1, (20, 4, 2)),
        rewards=rng.uniform(-4, -3.5, 20),
        terminals=np.zeros(20, bool),
    )
    changes = {
        "method": "edit",
        "edit.width": 8,
        "edit.penalty": 0.1,
        "learning_rate": 0.01,
        "replay.offline_dataset": str(path),
        "replay.capacity": 30,
    }
    return tiny(toy_policy, **PROPOSALS | changes)


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


def test_its_scalars_are_there_and_its_network_has_learned(run):
    points = {name: values[-1][1] for name, values in scalars(run).items()}
    assert points["train/edit_length"] > 1e-3 and np.isfinite(
        points["train/actor_loss"]
    )
    assert 0 < points["guide/edited_share"] <= 1 and points["guide/edit_gain"] > 0


def test_a_loaded_agent_takes_the_best_of_the_chunks_of_its_noise_and_their_edits(run):
    agent = load_agent(run)
    rng = np.random.default_rng(0)
    obs, noise = rng.uniform(-1, 1, (5, 4)), rng.normal(size=(5, 3, 4, 2))
    one, best = agent.act(obs, noise[:, 0]), agent.act(obs, noise)
    plain = agent.policy.sample(obs, noise[:, 0], ddim_steps=2)
    assert np.abs(one - plain).max() <= agent.config.edit.max_step + 1e-6
    assert np.abs(one - plain).max() > 1e-4
    value = jax.jit(agent.method.value)
    worth = [
        np.asarray(value(agent.learner, np.float32(obs), np.float32(c)).combined)
        for c in (plain, one, best)
    ]
    assert (worth[0] <= worth[1] + 1e-6).all() and (worth[1] <= worth[2] + 1e-6).all()
    still = load_agent(run, {"edit.max_step": 0.0})
    np.testing.assert_allclose(still.act(obs, noise[:, 0]), plain, atol=2e-6)
    with pytest.raises(UserError, match="method 'edit', whose state says nothing"):
        load_agent(run, {"method": "best_of_n"})


def test_the_audit_judges_by_its_critics(run):
    subject = make_subject(load_agent(run), "tanh_randn", seed=0)
    rng = np.random.default_rng(0)
    obs = np.float32(rng.uniform(-1, 1, (3, 4)))
    ids, chunk = np.arange(3, dtype=np.uint32), np.zeros(3, np.int32)
    steered = subject.steer(obs, subject.noise(0, ids, chunk))
    judged = subject.judge(obs, steered)
    assert judged[0].shape == (2, 3) and np.abs(judged[2]).max() > 0
    np.testing.assert_array_equal(judged[3], 1)


def test_a_run_of_before_there_were_edits_can_be_loaded(finished_run, tmp_path):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    path = folder / "config.json"
    content = json.loads(path.read_text())
    del content["edit"]
    path.write_text(json.dumps(content))
    assert load_agent(folder).config.edit == load_agent(finished_run).config.edit


def test_a_guided_run_can_choose_with_what_that_needs(finished_run):
    """Fields beside the method count when it is asked whether the state fits."""
    fields = {"guidance.candidates": 4, "target_backup": "max"}
    agent = load_agent(finished_run, {"method": "best_of_n"} | fields)
    assert agent.method.candidates == 4
    with pytest.raises(UserError, match="expected 'max' or 'mean' for method 'best_of"):
        load_agent(finished_run, {"method": "best_of_n", "guidance.candidates": 4})
    with pytest.raises(UserError, match="state says nothing to method 'edit'"):
        load_agent(finished_run, {"method": "edit"} | fields)
