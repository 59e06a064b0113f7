"""Data of another meaning: words that contradict are refused, odd values are named."""

import logging
import re

import h5py
import numpy as np
import pytest

import convert_torch_ckpt
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.normalize import Normalization
from dynvgd_jax.demos import hdf5
from dynvgd_jax.demos.dataset import load_dataset
from dynvgd_jax.demos.files import write_dppo
from dynvgd_jax.demos.hdf5 import read_words
from dynvgd_jax.demos.offline import load_offline
from tests.support import demonstrations as demos
from tests.support.demonstrations import env_args, episodes, write

NORM = Normalization(
    -2 * np.ones(23, np.float32),
    2 * np.ones(23, np.float32),
    -np.ones(7, np.float32),
    np.ones(7, np.float32),
)


def offline(path, **options):
    return load_offline(path, NORM, 4, 1.0, "square", **options)


def pretraining(path, **options):
    return load_dataset(path, "square", **options)


class Warnings(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


@pytest.fixture
def warnings():
    handler = Warnings()
    logger = logging.getLogger("dynvgd_jax")
    logger.addHandler(handler)
    yield handler.lines
    logger.removeHandler(handler)


@pytest.mark.parametrize("load", [offline, pretraining])
def test_sound_data_is_taken_without_a_word(tmp_path, warnings, load):
    load(write(tmp_path / "x.hdf5"))
    assert warnings == []


POSE = {"output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5], "kp": [150] * 6}
CONTRADICTIONS = [
    (env_args("can"), "PickPlaceCan', expected 'NutAssemblySquare'.*task to 'can'"),
    (env_args(env_name="Square_D1"), "'Square_D1', expected 'NutAssemblySquare'"),
    (env_args(env_name="ToolHang"), "ToolHang"),
    (env_args(env_version="1.5.1"), "robosuite 1.5.1, expected 1.4.*another order"),
    (env_args(env_version="2.0"), "robosuite 2.0"),
    (env_args(type=2), "kind of environment.* 2, expected 1"),
    (env_args(env_kwargs={"robots": ["Sawyer"]}), "another arm moves otherwise"),
    (env_args(env_kwargs={"robots": ["Panda", "Panda"]}), r"expected \['Panda'\]"),
    (env_args(env_kwargs={"control_freq": 10}), "control_freq 10, expected 20"),
    (env_args(controller={"control_delta": False}), "absolute poses"),
    (env_args(controller={"type": "OSC_POSITION"}), "'OSC_POSITION'.*other motions"),
    (env_args(controller={"type": "JOINT_VELOCITY"}), "JOINT_VELOCITY"),
    (env_args(controller={"output_max": 0.1}), "output_max 0.1"),
    (env_args(controller={"kp": 300}), "kp 300, expected 150"),
    (env_args(controller={"impedance_mode": "variable"}), "impedance_mode"),
    (env_args(env_kwargs={"controller_configs": {"body_parts": {}}}), "body_parts"),
    (
        env_args(env_kwargs={"controller_configs": [{"control_delta": False}]}),
        "absolute poses",
    ),
]


@pytest.mark.parametrize("load", [offline, pretraining])
@pytest.mark.parametrize(("words", "message"), CONTRADICTIONS)
def test_words_that_contradict_are_refused(tmp_path, load, words, message):
    path = write(tmp_path / "x.hdf5", words=words)
    with pytest.raises(UserError, match=message):
        load(path)


def test_words_stay_with_converted_data(tmp_path, capsys):
    """Can's sizes are Square's: an npz without words could not be told apart."""
    source = write(tmp_path / "can.hdf5", "can")
    arguments = (f"--dataset={source}", f"--output={tmp_path}/out")
    run = convert_torch_ckpt.main
    assert run(["x", *arguments]) == 0
    assert "made in PickPlaceCan by robosuite 1.4.1" in capsys.readouterr().out
    load_dataset(tmp_path / "out" / "train.npz", "can")
    with pytest.raises(UserError, match=r"train\.npz: found .*PickPlaceCan"):
        load_dataset(tmp_path / "out" / "train.npz", "square")
    again = (f"--dataset={tmp_path}/out/train.npz", f"--output={tmp_path}/twice")
    assert run(["x", *again]) == 0
    with pytest.raises(UserError, match="PickPlaceCan"):
        offline(tmp_path / "twice" / "train.npz")
    capsys.readouterr()
    assert (
        run(["x", f"--dataset={source}", "--task=square", f"--output={tmp_path}/z"])
        == 2
    )
    line = capsys.readouterr().err
    assert "PickPlaceCan" in line and line.count("\n") == 1


def test_a_robosuite_1_5_file_is_not_converted(tmp_path, capsys):
    source = write(tmp_path / "x.hdf5", words=env_args(env_version="1.5.0"))
    arguments = ["x", f"--dataset={source}", f"--output={tmp_path}/out"]
    assert convert_torch_ckpt.main(arguments) == 2
    assert "robosuite 1.5.0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words",
    [
        {},
        "no JSON",
        "[1]",
        {"env_name": "NutAssemblySquare"},
        env_args(env_kwargs={"controller_configs": None}),
        env_args(controller=POSE),
        env_args(env_kwargs={"robots": "Panda", "reward_shaping": True}),
    ],
)
def test_words_that_say_little_or_the_same_are_taken(tmp_path, words):
    pretraining(write(tmp_path / "x.hdf5", words=words))


def test_an_older_or_unreadable_version_is_named(tmp_path, warnings):
    pretraining(write(tmp_path / "a.hdf5", words=env_args(env_version="1.2.0")))
    assert "robosuite 1.2.0, expected 1.4" in warnings[-1]
    pretraining(write(tmp_path / "b.hdf5", words=env_args(env_version="new")))
    assert "env_version 'new'" in warnings[-1]


def test_kinds_of_reward(tmp_path):
    shaped = env_args(env_kwargs={"reward_shaping": True})
    path = write(tmp_path / "a.hdf5", words=shaped)
    pretraining(path)  # needs no reward
    with pytest.raises(UserError, match="reward_shaping"):
        offline(path)
    for name, change in (("minus", lambda r: r - 1), ("dense", lambda r: r + 0.1)):
        made = [e._replace(rewards=change(e.rewards)) for e in episodes()]
        path = write(tmp_path / f"{name}.hdf5", made=made)
        pretraining(path)
        with pytest.raises(UserError, match=r"holds rewards from .* 0, and 1"):
            offline(path)


def transitions(tmp_path, **changes):
    raw = episodes()[0]
    arrays = {
        "states": raw.obs / 2,
        "states_next": raw.obs / 2,
        "actions": np.tile(raw.actions, 4),
        "rewards": np.full(12, -4.0),
        "terminals": np.zeros(12),
    }
    np.savez(tmp_path / "t.npz", **arrays | changes)
    return tmp_path / "t.npz"


def test_transitions_are_looked_at_as_well(tmp_path, warnings):
    offline(transitions(tmp_path))
    assert warnings == []
    for rewards in (np.ones(12), np.full(12, -400.0)):
        with pytest.raises(UserError, match="expected -4 to 0: the sum over 4 control"):
            offline(transitions(tmp_path, rewards=rewards))
    obs = episodes()[0].obs
    offline(transitions(tmp_path, states=1000 * obs))  # millimetres
    assert "reaches" in warnings[0] and "base policy's scale" in warnings[0]
    words = np.array('{"env_name": "Lift"}')
    with pytest.raises(UserError, match="environment 'Lift'"):
        offline(transitions(tmp_path, env_args=words))


def odd(change):
    """Episodes with changed observations."""

    def make():
        return [e._replace(obs=change(e.obs.copy())) for e in episodes()]

    return make


def relative_first(obs):
    """robosuite 1.5's order of the object's observation."""
    return np.concatenate([obs[:, :9], obs[:, 16:23], obs[:, 9:16]], axis=1)


def in_degrees(obs):
    obs[:, 3:7] *= 57.3
    return obs


ODD = [
    (odd(relative_first), "put it .off by .*another order or sign"),
    (odd(in_degrees), "entries 3 to 6 .*robot0_eef_quat.*expected 1"),
    (lambda: episodes(place=demos.STARTS["can"]), "begins near .*for task 'square'"),
    (
        lambda: [e._replace(actions=3 * e.actions) for e in episodes()],
        r"actions reach .*\[-1, 1\]: absolute poses",
    ),
]


@pytest.mark.parametrize(("make", "message"), ODD)
def test_values_that_contradict_are_warned_of(tmp_path, warnings, make, message):
    path = write(tmp_path / "x.hdf5", words={}, made=make())
    pretraining(path)
    assert any(re.search(message, line) for line in warnings)


def test_lifts_other_sign_is_warned_of(tmp_path, warnings):
    load_dataset(write(tmp_path / "a.hdf5", "lift"), "lift")
    assert warnings == []
    made = [e._replace(obs=e.obs * ([1] * 16 + [-1] * 3)) for e in episodes("lift")]
    load_dataset(write(tmp_path / "b.hdf5", "lift", made=made), "lift")
    assert "gripper_to_cube_pos is not where" in warnings[0]


def test_another_scale_beside_the_data_is_warned_of(tmp_path, warnings):
    norm = write_dppo(tmp_path, episodes())
    pretraining(tmp_path / "train.npz")
    assert warnings == []
    wide = norm._replace(obs_max=norm.obs_max + 10, obs_min=norm.obs_min - 10)
    np.savez(tmp_path / "normalization.npz", **wide._asdict())
    pretraining(tmp_path / "train.npz")
    assert "robot0_eef_quat" in warnings[0] and "another scale?" in warnings[0]
    raw = dict(np.load(tmp_path / "train.npz"))
    raw["states"] = raw["states"] + 100
    np.savez(tmp_path / "train.npz", **raw)
    pretraining(tmp_path / "train.npz")
    assert any("in its own scale, expected about" in line for line in warnings)


def test_an_entry_that_never_changes_is_named(tmp_path, warnings):
    made = episodes()
    for episode in made:
        episode.obs[:, 11] = 0.83
        episode.actions[:, 5] = 0
    path = write(tmp_path / "x.hdf5", made=made)
    for load in (pretraining, offline):
        warnings.clear()
        load(path)
        assert "entry 11 (SquareNut_pos z) never changed" in warnings[0]
        assert "1 mm becomes up to 2,000 normalised units" in warnings[0]
        assert "action entry 5 never changed" in warnings[1]


def test_rewards_may_be_absent_for_pretraining_only(tmp_path):
    path = write(tmp_path / "x.hdf5")
    with h5py.File(path, "a") as file:
        for name in file["data"]:
            del file[f"data/{name}/rewards"]
    assert not pretraining(path).rewards.any()
    with pytest.raises(UserError, match="holds no reward"):
        offline(path)


@pytest.mark.parametrize(
    "names",
    [
        ["demo_0_aug", "demo_10_aug", "demo_2_aug"],
        ["demo_0", "demo_0_aug", "demo_1"],
        ["first", "second", "third"],
        ["ep-3", "ep-20.5", "7"],
    ],
)
def test_names_of_any_kind(tmp_path, names):
    path = write(tmp_path / "x.hdf5")
    demos.rename(path, {f"demo_{i}": f"x{i}" for i in range(3)})
    demos.rename(path, {f"x{i}": name for i, name in enumerate(names)})
    assert pretraining(path).lengths.tolist() == [12, 12, 12]


def test_numbers_in_names_give_the_order(tmp_path):
    path = write(tmp_path / "x.hdf5")
    demos.rename(path, {"demo_0": "demo_10_aug", "demo_1": "demo_2_aug"})
    rewards = [e.obs[0] for e in demos_of(path)]
    expected = [episodes()[i].obs[0] for i in (2, 1, 0)]
    np.testing.assert_array_equal(rewards[1:], expected[1:])


def demos_of(path):
    from dynvgd_jax.demos.files import read_robomimic

    return read_robomimic(path)


@pytest.mark.parametrize("name", ["x.HDF5", "x.H5", "x.hdf", "low_dim", "x.npz"])
def test_hdf5_is_known_by_its_first_bytes(tmp_path, name):
    write(tmp_path / "x.hdf5").rename(tmp_path / name)
    assert len(pretraining(tmp_path / name).lengths) == 3
    assert offline(tmp_path / name).transitions.reward.shape == (27,)


def test_npz_under_a_name_of_hdf5(tmp_path):
    write_dppo(tmp_path, episodes())
    (tmp_path / "train.npz").rename(tmp_path / "train.hdf5")
    assert len(pretraining(tmp_path / "train.hdf5").lengths) == 3


MASKS = {"train": [0, 2], "20_percent": [1]}


def test_filter_keys_choose_episodes(tmp_path, capsys):
    path = write(tmp_path / "x.hdf5", masks=MASKS)
    assert read_words(path).masks == {"train": ["demo_0", "demo_2"]} | {
        "20_percent": ["demo_1"]
    }
    assert len(pretraining(path, filter_key="train").lengths) == 2
    assert pretraining(path, filter_key="train").source["filter_key"] == "train"
    assert len(offline(path, filter_key="20_percent").transitions.reward) == 9
    arguments = ["x", f"--dataset={path}", f"--output={tmp_path}/out"]
    assert convert_torch_ckpt.main([*arguments, "--filter_key=train"]) == 0
    text = capsys.readouterr().out
    assert "2 episodes" in text and "filter key train" in text
    assert len(pretraining(tmp_path / "out" / "train.npz").lengths) == 2
    assert convert_torch_ckpt.main([*arguments[:2], f"--output={tmp_path}/all"]) == 0
    assert "filter keys are 20_percent, train" in capsys.readouterr().out


def test_filter_keys_that_do_not_fit(tmp_path):
    path = write(tmp_path / "x.hdf5", masks=MASKS)
    with h5py.File(path, "a") as file:
        file["mask/other"] = ["demo_7"]  # strings of variable length
        file["mask/none"] = np.zeros(0, "S8")
    for key, message in (
        ("valid", "no filter key 'valid', found 20_percent, none, other, train"),
        ("other", "names demo_7, expected episodes of the file"),
        ("none", "names no episode"),
    ):
        with pytest.raises(UserError, match=message):
            pretraining(path, filter_key=key)
    write_dppo(tmp_path, episodes())
    for load in (pretraining, offline):
        with pytest.raises(UserError, match="only robomimic's HDF5 has"):
            load(tmp_path / "train.npz", filter_key="train")
    with pytest.raises(UserError, match="no filter key 'train', found none"):
        pretraining(write(tmp_path / "y.hdf5"), filter_key="train")


def test_words_on_which_the_hdf5_library_hangs_give_one_line(tmp_path, monkeypatch):
    path = write(tmp_path / "x.hdf5")
    content = bytearray(path.read_bytes())
    for match in re.finditer(b"GCOL", bytes(content)):
        content[match.start() + 8] ^= 0x80  # the size of a collection of texts
    path.write_bytes(content)
    monkeypatch.setattr(hdf5, "_WORDS_TIMEOUT_S", 3)
    with pytest.raises(UserError, match="damaged where it says what it holds"):
        pretraining(path)


def test_raw_states_of_robosuite_say_what_extracts_observations(tmp_path):
    path = write(tmp_path / "x.hdf5")
    with h5py.File(path, "a") as file:
        for name in file["data"]:
            del file[f"data/{name}/obs"], file[f"data/{name}/next_obs"]
            file[f"data/{name}/states"] = np.zeros((12, 30))
    with pytest.raises(UserError, match="dataset_states_to_obs"):
        pretraining(path)
