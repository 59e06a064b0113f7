"""Critics trained again on a run's replay buffer learn what its own learner would."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import guidance, retrain
from dynvgd_jax import load_agent
from dynvgd_jax.agent import SOURCE_FILE
from dynvgd_jax.core.errors import UserError
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
        (["--changes", "critic.grups=2"], "critic.grups"),
        (["--changes", "guidance.candidates=8"], "found transitions"),
    ],
)
def test_errors(run, tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        again(run, tmp_path / "new", *arguments)
    assert not (tmp_path / "new").exists()


def test_an_existing_folder_is_refused(run):
    with pytest.raises(UserError, match="exists already"):
        again(run, run)
