"""--dataset: both layouts become a folder that pre-training and replay can read."""

import json

import h5py
import numpy as np
import pytest

import convert_torch_ckpt
from dynvgd_jax.core.normalize import load_normalization, normalize_obs
from dynvgd_jax.demos import files, hdf5
from dynvgd_jax.demos.dataset import load_dataset
from dynvgd_jax.demos.files import write_dppo, write_robomimic
from tests.demos.test_dataset import episodes


def run(*arguments):
    return convert_torch_ckpt.main(["convert_torch_ckpt.py", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path):
    write_dppo(tmp_path, episodes())
    write_robomimic(tmp_path / "low_dim.hdf5", episodes(), {})
    return tmp_path


@pytest.mark.parametrize("name", ["train.npz", "low_dim.hdf5"])
def test_both_layouts_come_over_bit_for_bit(folder, capsys, name):
    assert run(f"--dataset={folder / name}", f"--output={folder}/out") == 0
    said = capsys.readouterr()
    assert "10 episodes, 120 control steps, observation 23" in said.out
    assert said.err == ""
    found = load_dataset(folder / "out" / "train.npz", "can")
    expected = load_dataset(folder / "train.npz", "can")
    for field in ("obs", "actions", "rewards", "lengths"):
        np.testing.assert_array_equal(getattr(found, field), getattr(expected, field))
    source = json.loads((folder / "out" / "source.json").read_text())
    assert source["converted_from"] == name and len(source["sha256"]) == 64
    assert source["versions"]["numpy"] == np.__version__


def test_a_long_conversion_shows_how_far_it_is(folder, capsys, monkeypatch):
    monkeypatch.setattr(files, "PATIENCE_S", 0.0)
    source = f"--dataset={folder / 'low_dim.hdf5'}"
    task = "--task=can"
    assert run(source, f"--output={folder}/out", task) == 0
    said = capsys.readouterr()
    first, *_, last = [line for line in said.err.splitlines() if "left" in line]
    assert first.endswith("| 1/10") and "episodes read/s" in first
    assert last.startswith("100.0% |") and last.endswith("| 10/10")
    command = (
        f"--config=configs/can_pretrain.py --config.dataset={folder}/out/train.npz"
    )
    launch = "pre-train: python -m dynvgd_jax.launch"
    assert said.out.splitlines()[-1] == f"{launch} {command}"
    assert run(source, f"--output={folder}/again", task, "--quiet") == 0
    said = capsys.readouterr()
    assert said.err == "" and said.out.count("\n") == 1


def test_a_given_scale_is_used_for_raw_values(folder):
    norm = load_normalization(folder / "normalization.npz")
    wider = norm._replace(obs_min=norm.obs_min - 1, obs_max=norm.obs_max + 1)
    np.savez(folder / "wide.npz", **wider._asdict())
    source, scale = folder / "low_dim.hdf5", folder / "wide.npz"
    output = folder / "out"
    arguments = (f"--dataset={source}", f"--normalization={scale}")
    assert run(*arguments, f"--output={output}") == 0
    found = load_dataset(output / "train.npz", "can")
    raw = np.concatenate([e.obs for e in episodes()])
    np.testing.assert_array_equal(found.obs, normalize_obs(wider, raw))


def set_array(path, name, value):
    with h5py.File(path, "a") as file:
        del file[name]
        file[name] = value


def declare_huge(path, name):
    with h5py.File(path, "a") as file:
        del file[name]
        file.create_dataset(name, (10**9, 7), "f8", chunks=(1000, 7))  # nothing stored


BAD = [
    (
        lambda p: declare_huge(p, "data/demo_3/actions"),
        "expected at most 4,294,967,296",
    ),
    (lambda p: set_array(p, "data/demo_3/actions", ["a"] * 12), "holds no numbers"),
    (
        lambda p: set_array(p, "data/demo_3/rewards", np.zeros((12, 1))),
        "rewards (12, 1)",
    ),
    (lambda p: set_array(p, "data/demo_3/rewards", np.full(12, np.nan)), "not finite"),
    (lambda p: set_array(p, "data/demo_3", np.zeros(2)), "demo_3 is no group"),
    (lambda p: set_array(p, "data", np.zeros(2)), "no group 'data'"),
    (lambda p: p.write_bytes(p.read_bytes()[:5000]), "cannot be read as HDF5"),
]


@pytest.mark.parametrize(("spoil", "word"), BAD)
def test_bad_files_give_one_line_and_no_output(folder, capsys, spoil, word):
    spoil(folder / "low_dim.hdf5")
    before = sorted(p.name for p in folder.iterdir())
    assert run(f"--dataset={folder}/low_dim.hdf5", f"--output={folder}/out") == 2
    line = capsys.readouterr().err
    assert word in line and line.count("\n") == 1
    assert sorted(p.name for p in folder.iterdir()) == before


def test_a_dataset_in_another_file_is_refused(folder, capsys):
    layout = h5py.VirtualLayout((12, 7), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "b.hdf5"), "x", (12, 7))
    with h5py.File(folder / "low_dim.hdf5", "a") as file:
        del file["data/demo_0/actions"]
        file.create_virtual_dataset("data/demo_0/actions", layout)
    assert run(f"--dataset={folder}/low_dim.hdf5", f"--output={folder}/out") == 2
    assert "lies in another file" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["data", "data/demo_0", "data/demo_0/actions"])
def test_links_to_another_file_are_refused(folder, capsys, name):
    write_robomimic(folder / "b.hdf5", episodes(), {})
    with h5py.File(folder / "low_dim.hdf5", "a") as file:
        del file[name]
        file[name] = h5py.ExternalLink("b.hdf5", f"/{name}")
    assert run(f"--dataset={folder}/low_dim.hdf5", f"--output={folder}/out") == 2
    line = capsys.readouterr().err
    assert f"{name} lies in another file" in line and line.count("\n") == 1


def test_links_to_another_file_through_this_one_are_refused(folder, capsys):
    write_robomimic(folder / "b.hdf5", episodes(), {})
    with h5py.File(folder / "low_dim.hdf5", "a") as file:
        file["other"] = h5py.ExternalLink("b.hdf5", "/data/demo_0/obs")
        del file["data/demo_0/obs"]
        file["data/demo_0/obs"] = h5py.SoftLink("/other")
    assert run(f"--dataset={folder}/low_dim.hdf5", f"--output={folder}/out") == 2
    assert "lies in another file" in capsys.readouterr().err


def test_a_scale_of_other_sizes_and_an_existing_output(folder, capsys):
    norm = load_normalization(folder / "normalization.npz")
    np.savez(
        folder / "n.npz", **norm._replace(action_min=[0], action_max=[1])._asdict()
    )
    for name in ("train.npz", "low_dim.hdf5"):
        arguments = (f"--dataset={folder / name}", f"--normalization={folder}/n.npz")
        assert run(*arguments, f"--output={folder}/out") == 2
        assert "expected (23, 1)" in capsys.readouterr().err
    (folder / "out").mkdir()
    assert run(f"--dataset={folder}/train.npz", f"--output={folder}/out") == 2
    assert "exists already" in capsys.readouterr().err


def test_limit_is_what_the_messages_say():
    assert hdf5.MAX_HDF5_BYTES == 4_294_967_296
