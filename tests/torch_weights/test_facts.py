"""What tensors cannot tell is said by somebody, in one line, or it is required."""

from pathlib import Path

import numpy as np
import pytest
import torch

import convert_torch_ckpt
from dynvgd_jax import load_policy
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.normalize import Normalization, save_normalization
from dynvgd_jax.torch_weights.dppo_config import DppoConfig
from dynvgd_jax.torch_weights.facts import check_carried, gather
from tests.support import torch_reference as ref

SIZES = ref.SMALL
DPPO = "square_pre_diffusion_mlp_ta4_td20/2024-07-10_01-46-16/checkpoint"
TUNED = "can_ft_diffusion_mlp_ta4_td20_tdf10/2024_42/checkpoint"


def yaml(task=None, steps=None, activation=None, ft_steps=None):
    return DppoConfig(Path("a.yaml"), task, steps, activation, ft_steps, {})


def facts(path="x/s.pt", carried=(), said=None, is_fine_tuned=False, **flags):
    flags = {"task": "square"} | flags
    return gather(
        Path("/nowhere") / path, dict(carried), said, flags, is_fine_tuned=is_fine_tuned
    )


def test_t_is_never_guessed():
    with pytest.raises(UserError, match=r"T is not said.*--num_train_timesteps"):
        facts()
    with pytest.raises(UserError, match="T is not said"):
        facts(said=yaml(task="square"))


@pytest.mark.parametrize(
    ("given", "value", "source"),
    [
        ({"num_train_timesteps": 50}, 50, "--num_train_timesteps"),
        ({"said": yaml(steps=20)}, 20, "a.yaml"),
        ({"carried": {"num_train_timesteps": 7}}, 7, "the file itself"),
        ({"path": f"{DPPO}/state_8000.pt"}, 20, "td20 in its path"),
        ({"path": "state-td100.pt"}, 100, "td100 in its path"),
        # Nearer to the file wins; other words with these letters say nothing.
        ({"path": "a_td20/b_td50/std30/s.pt"}, 50, "td50 in its path"),
        ({"said": yaml(steps=20), "num_train_timesteps": 20}, 20, "--num_train_time"),
    ],
)
def test_who_says_t(given, value, source):
    found = facts(**given).num_train_timesteps
    assert found.value == value and source in found.source


def test_those_who_disagree_are_named():
    with pytest.raises(UserError, match=r"--num_train_timesteps=50, but a.yaml says 2"):
        facts(num_train_timesteps=50, said=yaml(steps=20))
    with pytest.raises(UserError, match=r"a\.yaml.* but the file itself says 100"):
        facts(carried={"num_train_timesteps": 100}, said=yaml(steps=20))
    path = f"{DPPO}/s.pt"
    with pytest.raises(UserError, match=r"a\.yaml says .* 100, but the path says td20"):
        facts(path, said=yaml(steps=100))
    # Both ways that the message offers lead on.
    found = facts(path, said=yaml(steps=100), num_train_timesteps=100)
    assert found.num_train_timesteps.value == 100
    assert "the path of s.pt says td20" in found.notes[0]
    assert facts(path).num_train_timesteps.value == 20
    with pytest.raises(UserError, match="T is not said"):
        facts("td20-td100/s.pt")


def test_steps_of_fine_tuning_from_the_path():
    found = facts(f"{TUNED}/s.pt", task="can", is_fine_tuned=True)
    assert found.ft_denoising_steps.value == 10 and not found.notes
    assert "tdf10 in its path" in found.line() and "td20 in its path" in found.line()
    assert facts(f"{TUNED}/s.pt", task="can").ft_denoising_steps is None
    with pytest.raises(UserError, match="found --ft_denoising_steps=None, expected 1 "):
        facts(num_train_timesteps=20, is_fine_tuned=True)
    with pytest.raises(UserError, match="=30, expected 1 to 20"):
        facts(num_train_timesteps=20, ft_denoising_steps=30, is_fine_tuned=True)
    with pytest.raises(UserError, match="is not fine-tuned"):
        facts(num_train_timesteps=20, ft_denoising_steps=3)


def test_a_task_that_the_path_contradicts_is_noted():
    assert not facts(f"{DPPO}/s.pt").notes
    (note,) = facts(f"{DPPO}/s.pt", task="can").notes
    assert "names square, but the task is can (--task)" in note
    with pytest.raises(UserError, match=r"found no --task and none in a\.yaml"):
        facts(task=None, said=yaml(steps=20))


def test_the_line_says_who_says_what():
    line = facts(num_train_timesteps=20).line()
    assert "task square (--task), T = 20 (--num_train_timesteps)" in line
    assert "activation mish (DPPO's default, nobody says)" in line


@pytest.mark.parametrize(
    "values",
    [
        {"num_train_timesteps": 1},
        {"num_train_timesteps": True},
        {"task": "cann"},
        {"task": ["can"]},
        {"other": 1},
        {"ft_denoising_steps": 0},
        "text",
    ],
)
def test_what_no_file_of_ours_says_is_refused(values):
    with pytest.raises(UserError, match="expected what --to_torch writes"):
        check_carried("s.pt", {"dynvgd_jax": values})


def run(*arguments):
    return convert_torch_ckpt.main(["convert_torch_ckpt.py", *arguments])


@pytest.fixture
def folder(tmp_path):
    ones = [np.ones(n, np.float32) for n in (SIZES.obs, SIZES.act)]
    norm = Normalization(-ones[0], ones[0], -ones[1], ones[1])
    save_normalization(tmp_path / "normalization.npz", norm)
    net = ref.make_net(SIZES)
    state = {f"network.{k}": v for k, v in net.state_dict().items()}
    torch.save({"epoch": 0, "model": state}, tmp_path / "s.pt")
    return tmp_path


def test_the_command_requires_t_and_says_what_its_proof_does_not_cover(folder, capsys):
    arguments = (f"--policy={folder}/s.pt", "--task=square", f"--output={folder}/out")
    assert run(*arguments) == 2
    line = capsys.readouterr().err
    assert "T is not said" in line and line.count("\n") == 1
    assert not (folder / "out").exists()
    assert run(*arguments, "--num_train_timesteps=20") == 0
    text = capsys.readouterr()
    assert "task square (--task), T = 20" in text.err and text.err.count("\n") == 1
    assert "not what they cannot tell: task, T, activation and scale" in text.out
    assert load_policy(folder / "out").num_train_timesteps == 20


@pytest.mark.parametrize("steps", [20, 100])
def test_the_way_back_and_forth_keeps_t_and_task(folder, capsys, steps):
    said = ("--task=square", f"--num_train_timesteps={steps}")
    assert run(f"--policy={folder}/s.pt", *said, f"--output={folder}/out") == 0
    back = folder / "can_td7"  # a path that says something else
    back.mkdir()
    assert run(f"--to_torch={folder}/out", f"--output={back}/b.pt") == 0
    scale = f"--normalization={folder}/normalization.npz"
    capsys.readouterr()
    assert run(f"--policy={back}/b.pt", scale, f"--output={folder}/twice") == 0
    notes = capsys.readouterr().err
    assert "says td7" in notes and "names can, but the task is square" in notes
    found = load_policy(folder / "twice")
    assert (found.task, found.num_train_timesteps) == ("square", steps)
    wrong = f"--num_train_timesteps={steps + 1}"
    assert run(f"--policy={back}/b.pt", scale, wrong, f"--output={folder}/c") == 2
    assert f"the file itself says {steps}" in capsys.readouterr().err
    assert run(f"--inspect={back}/b.pt") == 0
    assert f"said: task square, num_train_timesteps {steps}" in capsys.readouterr().out


def test_home_folders_in_every_path(folder, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(folder))
    (folder / "x.yaml").write_text("env: can\ndenoising_steps: 20")
    said = ("--dppo_config=~/x.yaml", "--normalization=~/normalization.npz")
    assert run("--policy=~/s.pt", *said, "--output=~/out") == 0
    assert load_policy(folder / "out").task == "can"
    assert run("--to_torch=~/out", "--output=~/back.pt") == 0
    assert run("--inspect=~/back.pt") == 0
    assert (folder / "back.pt").is_file() and not Path("~").exists()
