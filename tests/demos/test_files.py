"""Round trips of both layouts, the layouts themselves by hand, and bad files."""

import json

import h5py
import numpy as np
import pytest

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.normalize import load_normalization
from dynvgd_jax.demos.files import (
    DemoEpisode,
    fit_normalization,
    read_dppo,
    read_robomimic,
    write_dppo,
    write_robomimic,
)


def make_episode(steps, operator="careful", seed=5, obs_dim=19):
    rng = np.random.default_rng(seed)
    rewards = np.zeros(steps, np.float32)
    rewards[-1] = seed % 2
    return DemoEpisode(
        obs=rng.normal(size=(steps, obs_dim)).astype(np.float32),
        actions=rng.uniform(-1, 1, size=(steps, 7)).astype(np.float32),
        rewards=rewards,
        last_obs=rng.normal(size=obs_dim).astype(np.float32),
        operator=operator,
        seed=seed,
        success=bool(seed % 2),
        states=rng.normal(size=(steps, 30)),
    )


@pytest.fixture
def episodes():
    return [make_episode(3), make_episode(4, "hasty", 8)]


def assert_same(found, expected):
    for name, value in expected._asdict().items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)
        else:
            assert getattr(found, name) == value, name


def test_robomimic_round_trip_keeps_everything(tmp_path, episodes):
    write_robomimic(tmp_path / "demos.hdf5", episodes, {"env_name": "Lift"})
    found = read_robomimic(tmp_path / "demos.hdf5")
    assert len(found) == 2
    for one, other in zip(found, episodes):
        assert_same(one, other)


def test_an_operator_of_variable_length_is_not_read(tmp_path, episodes):
    # Reading such strings from a damaged file can hang inside the HDF5 library.
    write_robomimic(tmp_path / "demos.hdf5", episodes, {})
    with h5py.File(tmp_path / "demos.hdf5", "a") as file:
        file["data/demo_0"].attrs["operator"] = "careful"
    found = read_robomimic(tmp_path / "demos.hdf5")
    assert [e.operator for e in found] == ["", "hasty"]


def test_robomimic_demonstrations_come_back_in_order_past_ten(tmp_path):
    many = [make_episode(2, seed=i) for i in range(12)]  # demo_10 sorts before demo_2
    write_robomimic(tmp_path / "demos.hdf5", many, {})
    assert [e.seed for e in read_robomimic(tmp_path / "demos.hdf5")] == list(range(12))


def test_robomimic_layout_by_hand(tmp_path, episodes):
    path = tmp_path / "demos.hdf5"
    write_robomimic(path, episodes, {"env_name": "Lift"}, {"valid": [1]})
    with h5py.File(path) as file:
        assert file["data"].attrs["total"] == 7
        assert json.loads(file["data"].attrs["env_args"]) == {"env_name": "Lift"}
        assert list(file["mask/valid"]) == [b"demo_1"]
        demo = file["data/demo_1"]
        assert demo.attrs["num_samples"] == 4
        assert demo.attrs["operator"] == b"hasty"
        # 3 + 4 + 2 entries belong to the arm, the other 10 to the object
        obs, raw = demo["obs"], episodes[1].obs
        np.testing.assert_array_equal(obs["robot0_eef_pos"], raw[:, :3])
        np.testing.assert_array_equal(obs["robot0_eef_quat"], raw[:, 3:7])
        np.testing.assert_array_equal(obs["robot0_gripper_qpos"], raw[:, 7:9])
        np.testing.assert_array_equal(obs["object"], raw[:, 9:])
        following = demo["next_obs/robot0_eef_pos"]
        np.testing.assert_array_equal(following[:3], raw[1:, :3])
        np.testing.assert_array_equal(following[3], episodes[1].last_obs[:3])
        np.testing.assert_array_equal(demo["dones"], [0, 0, 0, 1])
        np.testing.assert_array_equal(demo["states"], episodes[1].states)


def test_dppo_layout_by_hand(tmp_path):
    # Entry 0 runs from 0 to 4, entry 1 stays at 1: span + 1e-6 keeps it finite.
    obs = np.array([[0.0, 1.0], [4.0, 1.0], [1.0, 1.0]], np.float32)
    actions = np.array([[-1.0], [0.5], [1.0]], np.float32)
    first = DemoEpisode(obs[:2], actions[:2], np.zeros(2, np.float32), obs[2])
    second = DemoEpisode(obs[2:], actions[2:], np.ones(1, np.float32), obs[2])
    write_dppo(tmp_path, [first, second._replace(operator="swift", success=True)])
    with np.load(tmp_path / "train.npz") as file:
        np.testing.assert_allclose(file["states"][:, 0], [-1.0, 1.0, -0.5], atol=1e-5)
        np.testing.assert_allclose(file["states"][:, 1], [-1.0, -1.0, -1.0])
        np.testing.assert_allclose(file["actions"][:, 0], [-1.0, 0.5, 1.0], atol=1e-5)
        np.testing.assert_array_equal(file["rewards"], [0, 0, 1])
        np.testing.assert_array_equal(file["terminals"], [False, True, True])
        np.testing.assert_array_equal(file["traj_lengths"], [2, 1])
        np.testing.assert_array_equal(file["operators"], ["", "swift"])
        np.testing.assert_array_equal(file["successes"], [False, True])
    norm = load_normalization(tmp_path / "normalization.npz")
    np.testing.assert_array_equal(norm.obs_min, [0, 1])
    np.testing.assert_array_equal(norm.obs_max, [4, 1])
    np.testing.assert_array_equal(norm.action_max, [1])


def test_dppo_round_trip(tmp_path, episodes):
    norm = write_dppo(tmp_path, episodes)
    found = read_dppo(tmp_path / "train.npz")
    assert found.states.shape == (7, 19)
    np.testing.assert_array_equal(found.traj_lengths, [3, 4])
    np.testing.assert_array_equal(np.flatnonzero(found.terminals), [2, 6])
    raw = (found.states[3:] / 2 + 0.5) * (norm.obs_max - norm.obs_min) + norm.obs_min
    np.testing.assert_allclose(raw, episodes[1].obs, atol=1e-5)
    assert_same(fit_normalization(episodes), norm)


def test_rewards_and_terminals_may_be_absent_as_in_dppo(tmp_path):
    arrays = {"states": np.zeros((3, 2)), "actions": np.zeros((3, 1))}
    np.savez(tmp_path / "train.npz", **arrays, traj_lengths=[2, 1])
    found = read_dppo(tmp_path / "train.npz")
    np.testing.assert_array_equal(found.terminals, [False, True, True])
    np.testing.assert_array_equal(found.rewards, [0, 0, 0])


@pytest.mark.parametrize("read", [read_robomimic, read_dppo])
def test_missing_or_damaged_files_are_named(tmp_path, read):
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "absent")
    (tmp_path / "text").write_text("not a data file")
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path / "text")


def test_robomimic_file_without_actions(tmp_path, episodes):
    path = tmp_path / "demos.hdf5"
    write_robomimic(path, episodes, {})
    with h5py.File(path, "a") as file:
        del file["data/demo_1/actions"]
    with pytest.raises(UserError, match="demo_1 lacks actions"):
        read_robomimic(path)


def test_robomimic_file_with_unequal_lengths(tmp_path, episodes):
    path = tmp_path / "demos.hdf5"
    write_robomimic(path, episodes, {})
    with h5py.File(path, "a") as file:
        del file["data/demo_0/actions"]
        file["data/demo_0/actions"] = np.zeros((9, 7))
    with pytest.raises(UserError, match=r"actions \(9, 7\).*observations \(3, 19\)"):
        read_robomimic(path)


def test_values_that_are_not_finite(tmp_path, episodes):
    episodes[0].obs[1, 2] = np.nan
    write_robomimic(tmp_path / "demos.hdf5", episodes, {})
    with pytest.raises(UserError, match="not finite"):
        read_robomimic(tmp_path / "demos.hdf5")


@pytest.mark.parametrize(
    ("actions", "word"),
    [(np.full((3, 7), 1e300), "not finite"), (np.zeros((3, 0)), "no empty part")],
)
@pytest.mark.filterwarnings("error")
def test_hdf5_values_beyond_float32_and_empty_parts(tmp_path, episodes, actions, word):
    path = tmp_path / "demos.hdf5"
    write_robomimic(path, episodes, {})
    with h5py.File(path, "a") as file:
        del file["data/demo_0/actions"]
        file["data/demo_0/actions"] = actions
    with pytest.raises(UserError, match=word):
        read_robomimic(path)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"states": np.full((3, 2), 1e300)}, "not finite"),
        ({"rewards": np.full(3, -1e300)}, "not finite"),
        ({"traj_lengths": [np.nan, 1.0]}, "expected at least one"),
        ({"traj_lengths": [1e300, 1.0]}, "expected"),
        ({"states": np.zeros((3, 0))}, "size >= 1"),
        ({"actions": np.zeros((3, 0))}, "size >= 1"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_dppo_values_out_of_range_give_no_warning(tmp_path, changes, word):
    arrays = {"states": np.zeros((3, 2)), "actions": np.zeros((3, 1))}
    arrays |= {"traj_lengths": [2, 1]}
    np.savez(tmp_path / "train.npz", **arrays | changes)
    with pytest.raises(UserError, match=word):
        read_dppo(tmp_path / "train.npz")


def test_dppo_lengths_that_do_not_add_up(tmp_path):
    arrays = {"states": np.zeros((3, 2)), "actions": np.zeros((3, 1))}
    np.savez(tmp_path / "train.npz", **arrays, traj_lengths=[2, 2])
    with pytest.raises(UserError, match="adding up to 4"):
        read_dppo(tmp_path / "train.npz")
    np.savez(tmp_path / "short.npz", **arrays)
    with pytest.raises(UserError, match="lacks traj_lengths"):
        read_dppo(tmp_path / "short.npz")


def test_existing_files_are_not_written_over(tmp_path, episodes):
    write_dppo(tmp_path, episodes)
    write_robomimic(tmp_path / "demos.hdf5", episodes, {})
    with pytest.raises(UserError, match="exists"):
        write_dppo(tmp_path, episodes)
    with pytest.raises(UserError, match="exists"):
        write_robomimic(tmp_path / "demos.hdf5", episodes, {})
