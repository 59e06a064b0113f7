"""Collection: mixture, seeds, independence of num_envs, labels, files of a run."""

import json

import h5py
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import can_demos, lift_demos, square_demos, transport_demos
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.demos.collect import collect, masks, plan_episodes, run
from dynvgd_jax.demos.experts import get_script
from dynvgd_jax.demos.files import DemoEpisode, read_dppo, read_robomimic
from dynvgd_jax.envs.robosuite.options import env_kwargs
from dynvgd_jax.envs.robosuite.tasks import get_task

pytestmark = pytest.mark.usefixtures("simulators")

LIFT = {"operators": {"swift": 2.0, "beside": 1.0}, "waypoint_noise_m": 0.01}


@pytest.fixture(scope="module")
def three():
    return collect("lift", 3, 7, num_envs=2, action_noise=0.05, hover_steps=4, **LIFT)


def test_plan_follows_the_weights():
    # shares of 10: 5.0, 3.33, 1.67; the largest remainder gets the odd one
    plan = plan_episodes({"a": 3.0, "b": 2.0, "c": 1.0}, 10, 0)
    names = [p.operator for p in plan]
    assert [names.count(n) for n in "abc"] == [5, 3, 2]
    assert names != sorted(names)
    assert len({p.reset_seed for p in plan}) == 10


def test_plan_depends_on_the_seed_only():
    weights = {"a": 1.0, "b": 1.0}
    one, same, other = (plan_episodes(weights, 20, s) for s in (1, 1, 2))
    assert [p[:2] for p in one] == [p[:2] for p in same]
    assert [p.reset_seed for p in one] != [p.reset_seed for p in other]


@pytest.mark.parametrize("weights", [{"a": 0.0}, {"a": 1.0, "b": -1.0}, {}])
def test_senseless_weights(weights):
    with pytest.raises(UserError, match="weights"):
        plan_episodes(weights, 5, 0)


def test_episodes_do_not_depend_on_the_number_of_environments(three):
    again = collect("lift", 3, 7, num_envs=1, action_noise=0.05, hover_steps=4, **LIFT)
    for one, other in zip(three, again):
        assert one.operator == other.operator and one.seed == other.seed
        for name in ("obs", "actions", "rewards", "states", "last_obs"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_episodes_are_labelled_and_whole(three):
    assert sorted(e.operator for e in three) == ["beside", "swift", "swift"]
    for episode in three:
        steps = len(episode.actions)
        assert episode.obs.shape == (steps, 19) and episode.rewards.shape == (steps,)
        assert np.abs(episode.actions).max() <= 1.0
        assert set(np.unique(episode.actions[:, 6])) <= {-1.0, 1.0}
        assert episode.success == (episode.rewards[-1] > 0)
        if episode.success:  # and 4 control steps of it
            np.testing.assert_array_equal(episode.rewards[-4:], np.ones(4))


def test_states_and_actions_replay_the_observations(three):
    from dynvgd_jax.envs.robosuite.vector import RobosuiteVectorEnv

    episode = three[0]
    venv = RobosuiteVectorEnv("lift", 1, None)
    venv.reset(np.array([0]), np.array([episode.seed]))
    for step in range(8):
        state = venv.envs[0].sim.get_state().flatten()
        np.testing.assert_array_equal(episode.states[step], state)
        np.testing.assert_array_equal(episode.obs[step], np.float32(venv.raw_obs[0]))
        venv.step(np.array([0]), episode.actions[None, None, step])
    venv.close()


def test_bad_requests():
    with pytest.raises(UserError, match="scripted experts"):
        collect("hopper", 1, 0, operators={"careful": 1.0})
    with pytest.raises(UserError, match="'clumsy'"):
        collect("can", 1, 0, operators={"clumsy": 1.0})
    with pytest.raises(UserError, match="action_noise"):
        collect("can", 1, 0, operators={"careful": 1.0}, action_noise=-0.1)
    with pytest.raises(UserError, match="num_episodes"):
        collect("can", 0, 0, operators={"careful": 1.0})


def test_bad_configurations(tmp_path):
    config = can_demos.get_config("quick").unlock()
    for field, value in (("seed", -1), ("env.num_threads", -1), ("num_envs", 0)):
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict({field: value})
        with pytest.raises(UserError, match=rf"config\.{field}: found {value}"):
            run(changed, tmp_path)
    del config.num_episodes
    with pytest.raises(UserError, match=r"start from configs/can_demos\.py"):
        run(config, tmp_path)


def test_masks_cover_the_episodes():
    blank = np.zeros((1, 1), np.float32)
    episodes = [
        DemoEpisode(blank, blank, blank[0], blank[0], "ab"[i % 2], i, i > 4)
        for i in range(10)
    ]
    found = masks(episodes, 0)
    assert len(found["valid"]) == 1
    assert sorted(found["train"] + found["valid"]) == list(range(10))
    assert found["successful"] == [5, 6, 7, 8, 9]
    assert found["operator_b"] == [1, 3, 5, 7, 9]


@pytest.mark.parametrize(
    "module", [can_demos, lift_demos, square_demos, transport_demos]
)
def test_configurations_name_operators_that_exist(module):
    config = module.get_config()
    assert config.job == "demos" and config.is_locked
    assert set(config.operators) <= set(get_script(config.task).operators)
    assert module.get_config("quick").num_episodes < config.num_episodes


def test_run_writes_every_file(tmp_path, capsys):
    config = ConfigDict(lift_demos.get_config().to_dict())
    config.num_episodes, config.num_envs = 2, 2
    config.hover_steps = config.rest_steps = 2
    config.operators = ConfigDict({"swift": 1.0})
    run(config, tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    episodes = read_robomimic(folder / "demos.hdf5")
    lengths = [len(e.actions) for e in episodes]
    np.testing.assert_array_equal(read_dppo(folder / "train.npz").traj_lengths, lengths)
    assert (folder / "normalization.npz").is_file()
    with h5py.File(folder / "demos.hdf5") as file:
        words = json.loads(file["data"].attrs["env_args"])
        assert words["env_name"] == "Lift"
        assert words["env_kwargs"] == env_kwargs(get_task("lift"))  # as it was built
        assert len(file["mask/operator_swift"]) == 2
    said = capsys.readouterr()
    assert "swift" in said.out and " episodes/s | " in said.err
    assert said.out.splitlines()[-1] == (
        "pre-train: python -m dynvgd_jax.launch --config=configs/lift_pretrain.py "
        f"--config.dataset={folder}/train.npz"
    )
