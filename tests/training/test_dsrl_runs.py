"""Whole runs of DSRL: broken off and resumed, reloaded, audited, with other data."""

import json
import shutil

import numpy as np
import pytest

from configs import base
from dynvgd_jax import load_agent
from dynvgd_jax.audit.run import run_audit
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import get_field
from dynvgd_jax.replay.log import ReplayLog
from dynvgd_jax.replay.ring import example_transition
from dynvgd_jax.runs.settings import ADDED_FIELDS, read_config
from dynvgd_jax.steering.noise_acting import NOISE
from dynvgd_jax.training.loop import train
from tests.support.reach import PowerCutError, ReachEnv, breaking
from tests.support.same_run import assert_equal_runs, notes_of, scalars
from tests.support.tiny_run import MANY_CHECKPOINTS, tiny

pytestmark = [
    pytest.mark.usefixtures("shared_programs"),
    pytest.mark.slow,
]

# Of the two runs one keeps its transitions in the host's memory and looks ahead.
CASES = {
    "dsrl_na": {"replay.memory": "host", "overlap": True, "target_n_step": 3},
    "dsrl_sac": {"dsrl.noise_magnitude": 1.5, "bootstrap_at_time_limit": True},
}


def dsrl_config(policy, name, **changes):
    changes = {"acting_noise": "randn", "eval.noises": ("randn",)} | changes
    return tiny(policy, method=name, **MANY_CHECKPOINTS | CASES[name] | changes)


@pytest.fixture(scope="module")
def finished(toy_policy, tmp_path_factory, shared_programs):
    """Method -> the folder of its run, which nothing has disturbed."""
    folder = tmp_path_factory.mktemp("dsrl")
    for name in CASES:
        train(dsrl_config(toy_policy, name), folder / name, make_env=ReachEnv)
    return {name: folder / name for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_a_broken_run_goes_on_bit_for_bit(finished, toy_policy, tmp_path, name):
    config, folder = dsrl_config(toy_policy, name), tmp_path / "run"
    # chunks: 8 of the base policy, 22 of training and 8 of the evaluation between
    with pytest.raises(PowerCutError):
        train(config, folder, make_env=breaking(8 + 8 + 22))
    train(config, folder, make_env=ReachEnv, resume=True)
    assert_equal_runs(folder, finished[name])


@pytest.mark.parametrize("name", CASES)
def test_a_run_says_how_its_actor_fares(finished, name):
    points = scalars(finished[name])
    names = {"train/entropy_coef", "train/actor_loss", "train/log_prob"}
    names |= {"guide/noise_norm", "train/critic_loss", "train/td_error_mean"}
    names |= {"train/noise_critic_loss"} if name == "dsrl_na" else set()
    assert names <= points.keys()
    coef = [value for _, value in points["train/entropy_coef"]]
    assert coef[0] > coef[-1] > 0.9  # a fresh actor's entropy is above 0
    # 14 training calls of 2 steps; distillation is not counted
    assert points["train/num_updates"][-1][1] == 28
    assert {value for _, value in points["train/q_range_excess"]} == {0}


def test_dsrl_sac_keeps_the_noise_of_every_chunk(finished):
    folder = finished["dsrl_sac"]
    config, agent = read_config(folder), load_agent(folder)
    segments = notes_of(folder, config.total_env_steps)["segments"]
    log = ReplayLog(folder / "replay", config.replay.capacity, segments)
    example = example_transition(4, 8, agent.method.extras)
    stored = log.read((config.replay.capacity,), example)
    noise = stored.extras[NOISE]
    assert np.abs(noise).max() <= 1.5 and len(np.unique(noise)) > 200
    chunks = agent.policy.sample(stored.obs, noise, config.ddim_steps)
    np.testing.assert_allclose(chunks.reshape(-1, 8), stored.action, atol=2e-6)


@pytest.mark.parametrize("name", CASES)
def test_a_loaded_agent_acts_without_a_noise(finished, name):
    agent, rng = load_agent(finished[name]), np.random.default_rng(0)
    obs = np.float32(rng.uniform(-1, 1, (3, 4)))
    draw = np.float32(rng.normal(size=(3, 4, 2)))
    mode = agent.act(obs)
    np.testing.assert_array_equal(mode, agent.act(obs, np.zeros_like(draw)))
    assert np.abs(agent.act(obs, draw) - mode).max() > 1e-3
    with pytest.raises(UserError, match="one draw an observation"):
        agent.act(obs, draw[:, None])
    words = f"a run of method '{name}', whose state says nothing to method 'dynvgd'"
    with pytest.raises(UserError, match=words):
        load_agent(finished[name], {"method": "dynvgd"})


def test_critics_of_chunks_can_be_audited_those_of_noises_not(finished, tmp_path):
    sizes = dict(states=3, chunks=2, repeats=2, lengths=(0.1,), make_env=ReachEnv)
    found = run_audit(finished["dsrl_na"], output=str(tmp_path / "na"), **sizes)
    assert found and (tmp_path / "na").is_dir()
    with pytest.raises(UserError, match="--noise: found 'tanh_randn', but method 'dsr"):
        run_audit(finished["dsrl_na"], noise="tanh_randn", **sizes)
    with pytest.raises(UserError, match="'dsrl_sac' has no critics of chunks"):
        run_audit(finished["dsrl_sac"], output=str(tmp_path / "sac"), **sizes)
    for name in ("dsrl_sac", "dsrl_na"):  # nothing there is weighed
        with pytest.raises(UserError, match=f"'{name}' weighs nothing by a TD error"):
            load_agent(finished[name]).act(np.zeros((1, 4)), td_error=1.0)


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    path = tmp_path_factory.mktemp("offline") / "offline.npz"
    rng = np.random.default_rng(0)
    np.savez(
        path,
        states=rng.uniform(-1, 1, (9, 4)),
        states_next=rng.uniform(-1, 1, (9, 4)),
        actions=rng.uniform(-1, 1, (9, 4, 2)),
        rewards=rng.uniform(-4, -3.5, 9),
        terminals=np.zeros(9, bool),
    )
    return path


def test_offline_transitions_teach_dsrl_na_and_are_refused_by_dsrl_sac(
    finished, toy_policy, offline, tmp_path
):
    changes = {"replay.offline_dataset": str(offline)}
    config = dsrl_config(toy_policy, "dsrl_na", **changes)
    train(config, tmp_path / "na", make_env=ReachEnv)
    both = [
        scalars(f)["train/q0_mean"][-1] for f in (tmp_path / "na", finished["dsrl_na"])
    ]
    assert both[0][0] == both[1][0] and both[0][1] != both[1][1]
    config = dsrl_config(toy_policy, "dsrl_sac", **changes)
    with pytest.raises(UserError, match="expected none for method 'dsrl_sac'"):
        train(config, tmp_path / "sac", make_env=ReachEnv)
    assert not (tmp_path / "sac").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_seeds_are_those_alone(finished, toy_policy, tmp_path, name):
    config = dsrl_config(toy_policy, name, num_seeds=2)
    train(config, tmp_path / "run", make_env=ReachEnv)
    found = [load_agent(tmp_path / "run" / f"seed{i}").learner for i in range(2)]
    alone = load_agent(finished[name]).learner
    actors = [learner.sac.actor.params["params"]["mean"]["kernel"] for learner in found]
    expected = alone.sac.actor.params["params"]["mean"]["kernel"]
    np.testing.assert_allclose(actors[0], expected, atol=1e-4)
    assert np.abs(actors[1] - expected).max() > 0.1


def test_a_run_of_before_dsrl_has_its_defaults(finished_run, tmp_path):
    own = {name: v for name, v in ADDED_FIELDS.items() if name.startswith("dsrl.")}
    defaults = base.get_config()
    assert {f"dsrl.{name}" for name in defaults.dsrl} == own.keys()
    assert all(get_field(defaults, name) == value for name, value in own.items())
    folder = shutil.copytree(finished_run, tmp_path / "run")
    content = json.loads((folder / "config.json").read_text())
    del content["dsrl"]
    (folder / "config.json").write_text(json.dumps(content))
    assert load_agent(folder).config.dsrl.to_dict() == defaults.dsrl.to_dict()
