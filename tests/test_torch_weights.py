"""DPPO files: every layout agrees with own PyTorch modules; bad files give one line."""

import collections
import fractions
import itertools

import jax
import numpy as np
import pytest
import torch
from torch import nn

import convert_torch_ckpt
from dynvgd_jax import load_policy
from dynvgd_jax.envs.normalize import Normalization, save_normalization

OBS, ACT, CHUNK, TIME = 23, 7, 4, 16


class Block(nn.Module):
    def __init__(self, width, norm):
        super().__init__()
        self.l1, self.l2 = nn.Linear(width, width), nn.Linear(width, width)
        if norm:
            self.norm1 = nn.LayerNorm(width, eps=1e-6)
            self.norm2 = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x):
        norms = [getattr(self, n, nn.Identity()) for n in ("norm1", "norm2")]
        y = self.l1(nn.functional.mish(norms[0](x)))
        return x + self.l2(nn.functional.mish(norms[1](y)))


class Chain(nn.Module):
    def __init__(self, sizes, norm):
        super().__init__()
        self.moduleList = nn.ModuleList()
        for i, (a, b) in enumerate(itertools.pairwise(sizes)):
            parts = collections.OrderedDict(linear_1=nn.Linear(a, b))
            if i < len(sizes) - 2:
                parts |= {"norm_1": nn.LayerNorm(b)} if norm else {}
                parts["act_1"] = nn.Mish()
            self.moduleList.append(nn.Sequential(parts))

    def forward(self, x):
        for module in self.moduleList:
            x = module(x)
        return x


class Net(nn.Module):
    def __init__(self, residual=True, encoder=False, norm=False):
        super().__init__()
        self.time_embedding = nn.Sequential(
            nn.Identity(), nn.Linear(TIME, 2 * TIME), nn.Mish(), nn.Linear(32, TIME)
        )
        self.cond_mlp = Chain([OBS, 12, 6], False) if encoder else nn.Identity()
        size = CHUNK * ACT + TIME + (6 if encoder else OBS)
        if residual:
            self.mlp_mean = nn.Module()
            layers = [nn.Linear(size, 24), Block(24, norm), nn.Linear(24, 28)]
            self.mlp_mean.layers = nn.ModuleList(layers)
            self.trunk = lambda x: nn.Sequential(*layers)(x)
        else:
            self.mlp_mean = self.trunk = Chain([size, 24, 20, 28], norm)
            del self.trunk
        self.residual = residual

    def forward(self, x, t, obs):
        j = torch.arange(TIME // 2)
        angle = t * 10000.0 ** (-j / (TIME // 2 - 1))
        time = self.time_embedding(torch.cat([angle.sin(), angle.cos()])[None])
        parts = [x.flatten(1), time.expand(len(x), -1), self.cond_mlp(obs)]
        trunk = self.trunk if self.residual else self.mlp_mean
        return trunk(torch.cat(parts, 1)).reshape(x.shape)


def make(kind):
    torch.manual_seed(sum(map(ord, kind)))
    net = Net("plain" not in kind, "encoder" in kind, "norm" in kind)
    for p in net.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return net


def prefixed(prefix, net):
    return {f"{prefix}.{k}": v for k, v in net.state_dict().items()}


@torch.no_grad()
def decode(early, late, ft, noise, obs, steps):
    """DPPO's DDIM of T = 20, chosen network by step index."""
    i = np.arange(21)
    signal = np.cos((i / 20 + 0.008) / 1.008 * np.pi / 2) ** 2
    alphas = np.cumprod(1 - np.minimum(1 - signal[1:] / signal[:-1], 0.999))
    x = torch.tensor(noise)
    for k in range(steps):
        t = (steps - 1 - k) * (20 // steps)
        a, b = alphas[t], alphas[t - 20 // steps] if k < steps - 1 else 1.0
        eps = (late if k >= steps - ft else early)(x, t, torch.tensor(obs))
        x0 = ((x - (1 - a) ** 0.5 * eps) / a**0.5).clamp(-1, 1)
        x = b**0.5 * x0 + (1 - b) ** 0.5 * (x - a**0.5 * x0) / (1 - a) ** 0.5
    return x.numpy()


def run(*arguments):
    return convert_torch_ckpt.main(["convert_torch_ckpt.py", *arguments])


@pytest.fixture
def folder(tmp_path):
    ones = [np.ones(n, np.float32) for n in (OBS, ACT)]
    norm = Normalization(-ones[0], ones[0], -ones[1], ones[1])
    save_normalization(tmp_path / "normalization.npz", norm)
    return tmp_path


def save(folder, content):
    torch.save(content, folder / "s.pt")
    return f"--policy={folder}/s.pt", "--task=can", f"--output={folder}/out"


def batch():
    rng = np.random.default_rng(0)
    obs = rng.uniform(-1, 1, (6, OBS)).astype(np.float32)
    return obs, rng.normal(size=(6, CHUNK, ACT)).astype(np.float32)


@pytest.mark.parametrize("kind", ["residual", "encoder", "norm", "plain", "plain-norm"])
def test_pretrained_layouts_agree_and_come_back_bit_for_bit(folder, kind):
    net, other = make(kind), make(kind + "x")
    content = {"epoch": 3, "ema": prefixed("network", net)}
    content["model"] = prefixed("network._orig_mod", other)
    assert run(*save(folder, content)) == 0
    policy, (obs, noise) = load_policy(folder / "out"), batch()
    for steps in (4, 8):
        found = policy.sample(obs, noise, ddim_steps=steps)
        expected = decode(net, net, 0, noise, obs, steps)
        np.testing.assert_allclose(found, expected, atol=2e-6)
    assert run(f"--to_torch={folder}/out", f"--output={folder}/back.pt") == 0
    back = torch.load(folder / "back.pt", weights_only=True)["ema"]
    assert back.keys() == content["ema"].keys()
    assert all(torch.equal(back[k], v) for k, v in content["ema"].items())


def test_fine_tuned_takes_the_late_steps_from_actor_ft(folder):
    early, late = make("residual"), make("residual2")
    model = prefixed("network", early) | prefixed("actor", early)
    model |= prefixed("actor_ft", late) | {"critic.Q1.weight": torch.ones(2)}
    arguments = save(folder, {"itr": 1, "model": model})
    assert run(*arguments) == 2  # --ft_denoising_steps is missing
    assert run(*arguments, "--ft_denoising_steps=3") == 0
    policy, (obs, noise) = load_policy(folder / "out"), batch()
    found = policy.sample(obs, noise, ddim_steps=4)
    np.testing.assert_allclose(found, decode(early, late, 3, noise, obs, 4), atol=2e-6)
    assert not np.allclose(found, decode(early, early, 3, noise, obs, 4), atol=1e-3)
    key = jax.random.key(0)
    assert np.isfinite(policy.sample_ddpm(obs, noise, key)).all()


def edited(change):
    state = prefixed("network", make("residual"))
    change(state)
    return {"epoch": 0, "model": state, "ema": state}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda s: s.pop("network.mlp_mean.layers.1.l2.bias"), "missing: mlp_mean"),
        (lambda s: s.update({"network.x": torch.ones(1)}), "left over: x"),
        (lambda s: s["network.mlp_mean.layers.0.bias"].fill_(np.nan), "not finite"),
        (lambda s: s.update({"network.mlp_mean.layers.0.bias": torch.ones(3)}), "[3]"),
        (lambda s: s.update(a=fractions.Fraction(1)), "fractions.Fraction"),
    ],
)
def test_bad_contents_give_one_line_and_no_output(folder, capsys, change, word):
    assert run(*save(folder, edited(change))) == 2
    before = sorted(p.name for p in folder.iterdir())
    line = capsys.readouterr().err
    assert word in line and line.count("\n") == 1
    assert before == ["normalization.npz", "s.pt"]


@pytest.mark.parametrize("where", [0, 300, 5000, -40, "half", "empty"])
def test_damaged_bytes_give_one_line_and_no_output(folder, capsys, where):
    arguments = save(folder, edited(lambda state: None))
    content = bytearray((folder / "s.pt").read_bytes())
    if where in ("half", "empty"):
        content = content[: len(content) // 2 if where == "half" else 0]
    else:
        content[where] ^= 0xFF
    (folder / "s.pt").write_bytes(content)
    assert run(*arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (folder / "out").exists()


def test_an_existing_output_is_left_alone(folder, capsys):
    (folder / "out").mkdir()
    assert run(*save(folder, edited(lambda state: None))) == 2
    assert "exists already" in capsys.readouterr().err
