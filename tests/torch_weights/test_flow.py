"""Flow policies from PyTorch: ReinFlow's files, which look like DPPO's."""

import copy

import numpy as np
import pytest
import torch

import convert_torch_ckpt
from dynvgd_jax import load_policy
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.normalize import Normalization, save_normalization
from dynvgd_jax.torch_weights.facts import check_carried
from tests.support import torch_reference as ref

SIZES = ref.SMALL._replace(encoder=(12, 6))
REFLOW = """
env: can
denoising_steps: 20
model:
  _target_: model.flow.reflow.ReFlow
  network: {_target_: model.flow.mlp_flow.FlowMLP, residual_style: true, time_dim: 16,
            mlp_dims: [24, 24, 24], cond_mlp_dims: [12, 6]}
"""


def run(*arguments):
    return convert_torch_ckpt.main(["convert_torch_ckpt.py", *arguments])


@pytest.fixture(scope="module")
def net():
    return ref.make_net(SIZES, seed=3)


@pytest.fixture
def folder(tmp_path, net):
    ones = [np.ones(n, np.float32) for n in (SIZES.obs, SIZES.act)]
    norm = Normalization(-ones[0], ones[0], -ones[1], ones[1])
    save_normalization(tmp_path / "normalization.npz", norm)
    state = {f"network.{key}": value for key, value in net.state_dict().items()}
    torch.save({"epoch": 1, "model": state, "ema": state}, tmp_path / "s.pt")
    (tmp_path / "reflow.yaml").write_text(REFLOW)
    return tmp_path


@torch.no_grad()
def euler(net, x, obs, steps):
    """The decode in float64, by a loop that knows nothing of lines."""
    net, x = copy.deepcopy(net).double(), torch.tensor(x).double()
    for k in range(steps):
        t = k / steps
        limit = [(b - x) / (1 - t) for b in (-1, 1)]  # velocities to either limit
        velocity = net(x, t, torch.tensor(obs).double())
        x = x + torch.maximum(torch.minimum(velocity, limit[1]), limit[0]) / steps
    return x.numpy()


def test_a_converted_flow_decodes_as_in_torch_and_comes_back(folder, net, capsys):
    said = (f"--policy={folder}/s.pt", f"--dppo_config={folder}/reflow.yaml")
    assert run(*said, f"--output={folder}/out") == 0
    text = capsys.readouterr()
    assert "task can" in text.err and "flow_mlp (" in text.err
    assert "T =" not in text.err and text.err.count("\n") == 1
    assert "the predicted velocity agrees with torch's within" in text.out
    policy = load_policy(folder / "out")
    assert (policy.kind, policy.num_train_timesteps) == ("flow_mlp", 0)
    rng = np.random.default_rng(0)
    obs = rng.uniform(-1, 1, (6, SIZES.obs)).astype(np.float32)
    noise = rng.normal(size=(6, SIZES.chunk, SIZES.act)).astype(np.float32)
    for steps in (1, 4, 10):
        expected = euler(net, noise, obs, steps)
        found = policy.sample(obs, noise, steps)
        np.testing.assert_allclose(found, expected, atol=2e-6)
    assert run(f"--to_torch={folder}/out", f"--output={folder}/back.pt") == 0
    back = torch.load(folder / "back.pt", weights_only=True)
    state = net.state_dict()
    assert all(torch.equal(back["ema"][f"network.{k}"], state[k]) for k in state)
    # the file itself says what it is
    assert run(f"--policy={folder}/back.pt", f"--output={folder}/twice") == 0
    assert load_policy(folder / "twice").kind == "flow_mlp"
    capsys.readouterr()
    assert run(f"--inspect={folder}/back.pt") == 0
    assert "policy_kind flow_mlp" in capsys.readouterr().out


def test_the_flag_or_the_path_says_it_too(folder):
    named = folder / "can_pre_reflow_mlp_ta4_td20"
    named.mkdir()
    (folder / "s.pt").rename(named / "s.pt")
    scale = f"--normalization={folder}/normalization.npz"
    said = (f"--policy={named}/s.pt", "--task=can", scale)
    assert run(*said, f"--output={folder}/a") == 0
    flag = "--policy_kind=diffusion_mlp"  # td20 of the path is then T
    assert run(*said, flag, f"--output={folder}/b") == 0
    (named / "s.pt").rename(folder / "s.pt")
    said = (f"--policy={folder}/s.pt", "--task=can", "--policy_kind=flow_mlp")
    assert run(*said, f"--output={folder}/c") == 0
    kinds = [load_policy(folder / name).kind for name in "abc"]
    assert kinds == ["flow_mlp", "diffusion_mlp", "flow_mlp"]


@pytest.mark.parametrize(
    ("arguments", "yaml", "words"),
    [
        (
            ("--policy_kind=flow_mlp", "--num_train_timesteps=20"),
            None,
            ("found --num_train_timesteps=20, but the kind is flow_mlp",),
        ),
        (
            ("--policy_kind=diffusion_mlp",),
            REFLOW,
            ("found --policy_kind=diffusion_mlp, but", "says flow_mlp; drop"),
        ),
        (
            ("--policy_kind=flow_mlp",),
            REFLOW.replace("model.flow.reflow.ReFlow", "model.diffusion.x.Diffusion"),
            ("found --policy_kind=flow_mlp, but", "says diffusion_mlp; drop"),
        ),
        (
            (),
            REFLOW.replace("reflow.ReFlow", "shortcutflow.ShortCutFlow"),
            ("model._target_ is 'model.flow.shortcutflow.Sh", "other policies are not"),
        ),
        (
            (),
            REFLOW.replace("denoising_steps: 20", "").replace("flow.", "other."),
            ("T is not said", "--policy_kind=flow_mlp"),
        ),
    ],
)
def test_those_who_disagree_are_named(folder, capsys, arguments, yaml, words):
    (folder / "x.yaml").write_text(yaml or "env: can")
    said = (f"--policy={folder}/s.pt", f"--dppo_config={folder}/x.yaml", *arguments)
    assert run(*said, f"--output={folder}/out") == 2
    line = capsys.readouterr().err
    assert all(word in line for word in words) and line.count("\n") == 1
    assert not (folder / "out").exists()


def test_two_networks_are_no_flow(folder, net, capsys):
    state = net.state_dict()
    parts = ("actor", "actor_ft")
    model = {f"{part}.{key}": state[key] for part in parts for key in state}
    torch.save({"itr": 1, "model": model}, folder / "s.pt")
    said = (f"--policy={folder}/s.pt", "--task=can", "--policy_kind=flow_mlp")
    assert run(*said, f"--output={folder}/out") == 2
    line = capsys.readouterr().err
    assert "has two networks, as a fine-tuned" in line and line.count("\n") == 1


def test_a_file_of_ours_with_timesteps_is_a_diffusion(folder, capsys):
    said = (f"--policy={folder}/s.pt", "--task=can", "--num_train_timesteps=20")
    assert run(*said, f"--output={folder}/out") == 0
    named = folder / "reflow"  # a path that says something else
    named.mkdir()
    assert run(f"--to_torch={folder}/out", f"--output={named}/b.pt") == 0
    scale = f"--normalization={folder}/normalization.npz"
    said = (f"--policy={named}/b.pt", scale)
    capsys.readouterr()
    assert run(*said, f"--output={folder}/twice") == 0
    assert "names reflow, but the kind is diffusion_mlp" in capsys.readouterr().err
    assert run(*said, "--policy_kind=flow_mlp", f"--output={folder}/c") == 2
    line = capsys.readouterr().err
    assert "but the file itself says diffusion_mlp" in line and line.count("\n") == 1


def test_a_file_says_a_kind_that_there_is():
    said = check_carried("s.pt", {"dynvgd_jax": {"policy_kind": "flow_mlp"}})
    assert said == {"policy_kind": "flow_mlp"}
    with pytest.raises(UserError, match="expected what --to_torch writes"):
        check_carried("s.pt", {"dynvgd_jax": {"policy_kind": "unet"}})
