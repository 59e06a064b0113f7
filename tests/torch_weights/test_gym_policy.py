"""DPPO's gym checkpoints: their layout, YAML and scales, against PyTorch in float64."""

import numpy as np
import pytest
import torch

import convert_torch_ckpt
from dynvgd_jax import load_policy
from dynvgd_jax.core.normalize import Normalization, save_normalization
from dynvgd_jax.envs.gym.tasks import SIZES
from tests.support import torch_reference as ref

# As DPPO's files of these tasks say it, shortened.
YAML = """
env_name: {task}-medium-v2
obs_dim: {obs}
action_dim: {act}
denoising_steps: 20
cond_steps: 1
horizon_steps: 4
env: gym
model:
  _target_: model.diffusion.diffusion.DiffusionModel
  predict_epsilon: True
  denoised_clip_value: 1.0
  network:
    _target_: model.diffusion.mlp_diffusion.DiffusionMLP
    time_dim: 16
    mlp_dims: [24, 24, 24]
    activation_type: ReLU
    residual_style: True
"""


def write(folder, task):
    """A checkpoint with its scale and YAML, and the network in it."""
    obs_dim, action_dim, chunk, _ = SIZES[task]
    net = ref.make_net(ref.Sizes(obs_dim, action_dim, chunk, 16, 24), "residual-relu")
    state = {f"network.{name}": value for name, value in net.state_dict().items()}
    torch.save({"epoch": 3000, "model": state, "ema": state}, folder / "state.pt")
    rng = np.random.default_rng(0)
    low, high = rng.uniform(-5, -1, obs_dim), rng.uniform(1, 5, obs_dim)
    norm = Normalization(low, high, -np.ones(action_dim), np.ones(action_dim))
    save_normalization(folder / "normalization.npz", norm)
    text = YAML.format(task=task, obs=obs_dim, act=action_dim)
    (folder / "pre.yaml").write_text(text)
    return net


def convert(folder, *arguments):
    flags = (f"--policy={folder}/state.pt", f"--output={folder}/out")
    return convert_torch_ckpt.main(["convert_torch_ckpt.py", *flags, *arguments])


@pytest.mark.parametrize("task", SIZES)
@pytest.mark.parametrize("said", ["yaml", "flags"])
def test_gym_policies_agree_with_torch(tmp_path, task, said):
    net, (obs_dim, action_dim, chunk, _) = write(tmp_path, task), SIZES[task]
    said = {
        "yaml": [f"--dppo_config={tmp_path}/pre.yaml"],
        # nobody says the activation: gym policies have ReLU
        "flags": [f"--task={task}", "--num_train_timesteps=20"],
    }[said]
    assert convert(tmp_path, *said) == 0
    policy = load_policy(tmp_path / "out")
    assert (policy.task, policy.num_train_timesteps) == (task, 20)
    assert policy.network.activation == "relu" and policy.network.residual
    assert [len(vector) for vector in policy.normalization[::2]] == [
        obs_dim,
        action_dim,
    ]
    rng = np.random.default_rng(1)
    obs = rng.uniform(-1, 1, (6, obs_dim)).astype(np.float32)
    noise = rng.normal(size=(6, chunk, action_dim)).astype(np.float32)
    table = ref.ddim_table(20, 8)
    both = ref.mixed(net, net, table, 0)
    expected = ref.decode(both, torch.tensor(noise), torch.tensor(obs), table).numpy()
    found = policy.sample(obs, noise, ddim_steps=8)
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_a_checkpoint_of_another_environment_is_one_line(tmp_path, capsys):
    write(tmp_path, "walker2d")
    given = ["--task=hopper", "--num_train_timesteps=20"]
    assert convert(tmp_path, *given) == 2
    line = capsys.readouterr().err
    assert "(17, 6, 4), expected (11, 3, 4)" in line and line.count("\n") == 1
    # sizes do not tell the cheetah from the walker; its YAML does
    given = ["--task=halfcheetah", f"--dppo_config={tmp_path}/pre.yaml"]
    assert convert(tmp_path, *given) == 2
    line = capsys.readouterr().err
    assert "says walker2d" in line and line.count("\n") == 1
    assert not (tmp_path / "out").exists()
