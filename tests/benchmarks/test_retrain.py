"""Critics trained again on a run's replay buffer learn what its own learner would."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import guidance, retrain
from dynvgd_jax import load_agent
from dynvgd_jax.agent import CHECKPOINTS, SOURCE_FILE
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.runs.settings import read_config
from dynvgd_jax.training.loop import train
from tests.support.reach import ReachEnv
from tests.support.tiny_run import PROPOSALS, random_policy, tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("retrain")
    config = tiny(random_policy(folder / "policy"), **PROPOSALS)
    train(config, folder / "run", ReachEnv)
    return folder / "run"


def again(run, output, *arguments):
    retrain.main([str(run), str(output), *map(str, arguments)])
    return load_agent(output)


def leaves(agent):
    return jax.tree.leaves(agent.learner.critic.params)


def test_it_draws_all_that_the_run_stored(run, tmp_path, capsys):
    trained = load_agent(run)
    updates = int(trained.learner.num_updates)
    found = again(run, tmp_path / "first", "--seed=1")
    stored = trained.env_steps // ReachEnv.sizes.chunk_len
    assert f"{stored} transitions, {updates} gradient steps" in capsys.readouterr().out
    assert int(found.learner.num_updates) == updates
    assert (tmp_path / "first" / SOURCE_FILE).exists()
    equal = [np.array_equal(a, b) for a, b in zip(leaves(found), leaves(trained))]
    assert not all(equal)
    # the seed decides
    same, other = (again(run, tmp_path / f"s{s}", f"--seed={s}") for s in (1, 2))
    pairs = [list(zip(leaves(found), leaves(x))) for x in (same, other)]
    equal = [[np.array_equal(a, b) for a, b in pair] for pair in pairs]
    assert all(equal[0]) and not all(equal[1])
    # two of them together steer as one ensemble
    both = guidance.together([found, other])
    assert both.config.critic.num == 4


def test_the_buffer_is_the_runs(run):
    """Rewards, observations and proposals are what the run's own resume would read."""
    agent = load_agent(run)
    buffer = retrain.read_buffer(run, agent.env_steps, agent)
    data = buffer.data
    assert int(buffer.size) == len(data.reward) and bool((data.reward < 0).all())
    # an environment's next transition begins where the last one ended
    obs, following = data.obs[2:], data.next_obs[:-2]
    goes_on = ~np.asarray(data.ended[:-2])
    np.testing.assert_array_equal(obs[goes_on], following[goes_on])
    assert jnp.abs(data.next_extras["proposals"]).sum() > 0


def test_fields_are_changed_and_steps_counted(run, tmp_path):
    changes = ["--changes", "critic.groups=2", "critic.width=8"]
    found = again(run, tmp_path / "apart", "--updates=3", *changes)
    assert (found.config.critic.groups, found.config.critic.width) == (2, 8)
    assert int(found.learner.num_updates) == 4  # whole training calls of 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--updates=0"], "--updates: found 0, expected 1 up"),
        (["--changes", "critic.groups=3"], "found 3, expected a divisor"),
        (["--changes", "critic.groups=true"], "critic.groups: found True, expected a"),
        (["--changes", "critic.grups=2"], "critic.grups"),
        (["--changes", "critic.groups"], "--changes: found 'critic.groups', expected"),
        (["--changes", "guidance.candidates=8"], "found guidance.candidates, expected"),
        (["--changes", "num_envs=3"], "found num_envs, expected a field of critics"),
        (["--changes", "target_backup=guided"], "other arrays belong to a transition"),
        (["--seed=-1"], "--seed: found -1, expected 0 to"),
    ],
)
def test_errors(run, tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        again(run, tmp_path / "new", *arguments)
    assert not (tmp_path / "new").exists()


def test_critics_that_are_not_finite_are_not_written(run, tmp_path, monkeypatch):
    read = retrain.read_buffer

    def read_broken(*arguments):
        buffer = read(*arguments)
        data = buffer.data._replace(reward=buffer.data.reward * jnp.nan)
        return buffer._replace(data=data)

    monkeypatch.setattr(retrain, "read_buffer", read_broken)
    with pytest.raises(UserError, match="critics that are not finite"):
        again(run, tmp_path / "new", "--updates=2")
    assert not (tmp_path / "new").exists()


def test_an_existing_folder_is_refused(run):
    with pytest.raises(UserError, match="exists already"):
        again(run, run)


def test_a_folder_without_its_buffer_is_refused(run, tmp_path):
    again(run, tmp_path / "first", "--updates=2")
    with pytest.raises(UserError, match="found no resume/, expected a run with its"):
        again(tmp_path / "first", tmp_path / "second")


def test_a_run_does_not_go_on_in_place_of_them(run, tmp_path):
    """It would begin anew there and delete them."""
    found = again(run, tmp_path / "first", "--updates=2")
    with pytest.raises(UserError, match=r"no run to go on with; .*initial_critics="):
        train(
            read_config(tmp_path / "first"), tmp_path / "first", ReachEnv, resume=True
        )
    for a, b in zip(leaves(found), leaves(load_agent(tmp_path / "first")), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_older_checkpoint_has_its_own_buffer_and_count(run, tmp_path, capsys):
    old, new = sorted(int(path.name) for path in (run / CHECKPOINTS).iterdir())
    found = again(run / CHECKPOINTS / str(old), tmp_path / "old")
    assert found.env_steps == old < new
    updates = load_agent(run / CHECKPOINTS / str(old)).learner.num_updates
    assert int(found.learner.num_updates) == int(updates)
    stored = old // ReachEnv.sizes.chunk_len
    assert f"{stored} transitions, {updates} gradient" in capsys.readouterr().out


def test_a_wrapped_buffer_is_the_capacitys(tmp_path, toy_policy):
    changes = {"replay.capacity": 30, "checkpoint.every_env_steps": 10**6}
    config = tiny(toy_policy, **PROPOSALS | changes)
    train(config, tmp_path / "run", ReachEnv)
    agent = load_agent(tmp_path / "run")
    assert agent.env_steps // ReachEnv.sizes.chunk_len == 48
    buffer = retrain.read_buffer(tmp_path / "run", agent.env_steps, agent)
    assert int(buffer.size) == 30 and int(buffer.cursor) == 48 % 30
