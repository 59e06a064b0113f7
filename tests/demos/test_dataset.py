"""Demonstration files as training data: both layouts agree, splits keep episodes."""

import numpy as np
import pytest

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.demos.dataset import (
    load_dataset,
    require_task_sizes,
    split_chunks,
)
from dynvgd_jax.demos.files import DemoEpisode, write_dppo, write_robomimic


def episodes(count=10, length=12):
    rng = np.random.default_rng(0)
    return [
        DemoEpisode(
            obs=rng.normal(size=(length, 23)).astype(np.float32),
            actions=rng.uniform(-1, 1, (length, 7)).astype(np.float32),
            rewards=np.zeros(length, np.float32),
            last_obs=np.zeros(23, np.float32),
        )
        for _ in range(count)
    ]


@pytest.fixture
def folder(tmp_path):
    write_dppo(tmp_path, episodes())
    write_robomimic(tmp_path / "demos.hdf5", episodes(), {})
    return tmp_path


def test_both_layouts_agree(folder):
    npz = load_dataset(folder / "train.npz", "can")
    hdf5 = load_dataset(folder / "demos.hdf5", "can")
    for name in ("obs", "actions", "lengths"):
        np.testing.assert_array_equal(getattr(npz, name), getattr(hdf5, name))
    for a, b in zip(npz.normalization, hdf5.normalization, strict=True):
        np.testing.assert_array_equal(a, b)
    assert npz.obs.dtype == npz.actions.dtype == np.float32
    assert np.abs(npz.actions).max() <= 1 and npz.lengths.tolist() == [12] * 10
    assert npz.source["file"] == "train.npz" and len(npz.source["sha256"]) == 64


def test_split_holds_out_whole_trajectories(folder):
    data = load_dataset(folder / "train.npz", "can")
    training, validation = split_chunks(data, 4, 0.2, seed=1)
    # 10 trajectories of 12 steps, 9 chunks each; 2 of them held out.
    assert (len(training.starts), len(validation.starts)) == (8 * 9, 2 * 9)
    assert len(training.obs) == 96 and len(validation.obs) == 24
    rows = {row.tobytes() for row in training.obs}
    assert not any(row.tobytes() in rows for row in validation.obs)
    again, _ = split_chunks(data, 4, 0.2, seed=1)
    np.testing.assert_array_equal(again.obs, training.obs)
    other, _ = split_chunks(data, 4, 0.2, seed=2)
    assert not np.array_equal(other.obs, training.obs)


def test_no_share_and_no_long_trajectory(folder):
    data = load_dataset(folder / "train.npz", "can")
    assert split_chunks(data, 4, 0.0, seed=0)[1] is None
    with pytest.raises(UserError, match="no training trajectory of 13 steps"):
        split_chunks(data, 13, 0.1, seed=0)


def test_missing_file_names_the_command(tmp_path):
    with pytest.raises(UserError, match=r"configs/square_demos\.py --workdir=data/squ"):
        load_dataset(tmp_path / "train.npz", "square")


def test_data_of_other_sizes_than_the_task(folder):
    words = r"observations of 23 and actions of 7 .* expected 19 and 7 of task 'lift'"
    with pytest.raises(UserError, match=words):
        require_task_sizes("x", load_dataset(folder / "train.npz", None), "lift")
    # a task whose configuration file nobody has written
    with pytest.raises(
        UserError, match=r"nowhere.npz; give a train.npz or a robomimic"
    ):
        load_dataset("nowhere.npz", "own.module:task")


def test_missing_or_foreign_normalization(folder):
    path = folder / "normalization.npz"
    values = dict(np.load(path))
    values["obs_min"], values["obs_max"] = np.zeros(19), np.ones(19)
    np.savez(path, **values)
    with pytest.raises(UserError, match=r"\(23, 7\).*expected \(19, 7\)"):
        load_dataset(folder / "train.npz", "can")
    path.unlink()
    with pytest.raises(UserError, match=r"normalization\.npz"):
        load_dataset(folder / "train.npz", "can")
