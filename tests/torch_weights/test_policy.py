"""DPPO files: every layout agrees with own PyTorch modules; bad files give one line."""

import copy
import fractions
import sys
import zipfile

import jax
import numpy as np
import pytest
import torch

import convert_torch_ckpt
from dynvgd_jax import load_policy
from dynvgd_jax.core.normalize import Normalization, save_normalization
from tests.support import reference
from tests.support import torch_reference as ref

SIZES = ref.SMALL


def make(kind):
    sizes = SIZES._replace(encoder=(12, 6)) if "encoder" in kind else SIZES
    return ref.make_net(sizes, kind, seed=sum(map(ord, kind)))


def prefixed(prefix, net):
    return {f"{prefix}.{k}": v for k, v in net.state_dict().items()}


def decode(early, late, ft, noise, obs, steps):
    table = ref.ddim_table(SIZES.train_steps, steps)
    net = ref.mixed(early, late, table, ft)
    return ref.decode(net, torch.tensor(noise), torch.tensor(obs), table).numpy()


def ddpm(early, late, ft, noise, obs, key):
    def eps(x, t, obs):
        net = copy.deepcopy(late if t < ft else early).double()
        with torch.no_grad():
            return net(torch.tensor(x), t, torch.tensor(np.float64(obs))).numpy()

    steps = range(SIZES.train_steps)
    draws = [jax.random.normal(jax.random.fold_in(key, t), noise.shape) for t in steps]
    clipped = [np.clip(draw, -3, 3) for draw in draws]
    return reference.ddpm_decode(eps, noise, obs, SIZES.train_steps, clipped)


def run(*arguments):
    return convert_torch_ckpt.main(["convert_torch_ckpt.py", *arguments])


@pytest.fixture
def folder(tmp_path):
    ones = [np.ones(n, np.float32) for n in (SIZES.obs, SIZES.act)]
    norm = Normalization(-ones[0], ones[0], -ones[1], ones[1])
    save_normalization(tmp_path / "normalization.npz", norm)
    return tmp_path


def save(folder, content):
    torch.save(content, folder / "s.pt")
    said = ("--task=can", "--num_train_timesteps=20")
    return f"--policy={folder}/s.pt", *said, f"--output={folder}/out"


def batch():
    rng = np.random.default_rng(0)
    obs = rng.uniform(-1, 1, (6, SIZES.obs)).astype(np.float32)
    return obs, rng.normal(size=(6, SIZES.chunk, SIZES.act)).astype(np.float32)


@pytest.mark.parametrize(
    "kind",
    [
        "residual",
        "plain-norm",
        *(
            pytest.param(k, marks=pytest.mark.slow)
            for k in ("encoder", "norm", "plain")
        ),
    ],
)
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
    found = policy.sample_ddpm(obs, noise, key)
    # Without JAX: the late network predicts at timesteps t < 3.
    expected = ddpm(early, late, 3, noise, obs, key)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert not np.allclose(found, ddpm(early, late, 2, noise, obs, key), atol=1e-3)
    assert not np.allclose(found, ddpm(early, late, 4, noise, obs, key), atol=1e-3)


def test_a_file_for_torch_that_does_not_come_back_is_deleted(
    folder, capsys, monkeypatch
):
    assert run(*save(folder, edited(lambda state: None))) == 0
    load = "dynvgd_jax.torch_weights.to_torch.load_torch"
    kept = edited(lambda state: None)
    monkeypatch.setattr(load, lambda path: kept)
    kept["model"]["network.mlp_mean.layers.0.bias"][0] += 1e-3
    capsys.readouterr()
    assert run(f"--to_torch={folder}/out", f"--output={folder}/back.pt") == 2
    assert "did not come back bit for bit" in capsys.readouterr().err
    names = sorted(p.name for p in folder.iterdir())
    assert names == ["normalization.npz", "out", "s.pt"]


def test_what_another_flag_or_file_would_need_is_named(folder, capsys):
    model = prefixed("network", make("residual")) | prefixed("actor", make("residual"))
    arguments = save(folder, {"itr": 1, "model": model})
    assert run(*arguments, "--ft_denoising_steps=3") == 2
    line = capsys.readouterr().err
    assert "missing: actor_ft.*" in line and "left over" not in line
    with zipfile.ZipFile(folder / "s.pt", "w") as archive:
        archive.writestr("policy.pth", b"")
    assert run(*arguments) == 2
    line = capsys.readouterr().err
    assert "give it to --critic" in line and line.count("\n") == 1


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


def test_a_tensor_saved_with_a_pending_minus_is_read_as_what_it_means(folder):
    key = "network.mlp_mean.layers.0.bias"
    content = edited(lambda s: s.update({key: torch._neg_view(s[key])}))
    assert run(*save(folder, content)) == 0
    assert run(f"--to_torch={folder}/out", f"--output={folder}/back.pt") == 0
    back = torch.load(folder / "back.pt", weights_only=True)["model"][key]
    assert torch.equal(back, content["model"][key]) and back.any()


def test_a_pickle_that_asks_for_all_memory_gives_one_line(folder, capsys):
    arguments = save(folder, {})
    # bytearray(10**15)
    number = b"\x8a\x07" + (10**15).to_bytes(7, "little")
    pickle = b"\x80\x02c__builtin__\nbytearray\n" + number + b"\x85R."
    with zipfile.ZipFile(folder / "s.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(folder / "s.pt", "w") as archive:
        for name, content in members.items():
            is_pickle = name.endswith("data.pkl")
            archive.writestr(name, pickle if is_pickle else content)
    assert run(*arguments) == 2
    line = capsys.readouterr().err
    assert "MemoryError" in line and line.count("\n") == 1


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


def test_values_that_begin_with_config_are_no_configuration(folder, monkeypatch):
    monkeypatch.chdir(folder)
    save(folder, edited(lambda state: None))
    (folder / "configs").mkdir()
    (folder / "configs" / "a.yaml").write_text("env: can\ndenoising_steps: 20")
    yaml = ("--dppo_config", "configs/a.yaml")
    assert run("--policy", "s.pt", *yaml, "--output", "config_out") == 0
    assert load_policy(folder / "config_out").task == "can"


def test_an_existing_output_is_left_alone(folder, capsys):
    (folder / "out").mkdir()
    assert run(*save(folder, edited(lambda state: None))) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_yaml_gives_what_tensors_cannot_tell_and_loses_where_they_can(folder, capsys):
    policy, _, _, output = save(folder, edited(lambda state: None))
    text = "env_name: can\ndenoising_steps: 50\nft_denoising_steps: 10\n"
    text += "model: {network: {mlp_dims: [512], residual_style: true}}\n"
    (folder / "x.yaml").write_text(text)
    yaml = f"--dppo_config={folder}/x.yaml"
    assert run(policy, yaml, output, "--num_train_timesteps=20") == 2
    line = capsys.readouterr().err
    assert "--num_train_timesteps=20, but" in line and "says 50" in line
    assert run(policy, yaml, output) == 0
    notes = capsys.readouterr().err.splitlines()
    assert "T = 50" in notes[0] and "x.yaml" in notes[0]
    assert "mlp_dims [512] (tensors: [24, 24, 24])" in notes[1] and len(notes) == 2
    found = load_policy(folder / "out")
    assert (found.task, found.schedule.num_train_timesteps) == ("can", 50)
    assert run(policy.replace("policy", "inspect"), yaml) == 0
    assert "disagrees with the tensors" in capsys.readouterr().out
    (folder / "x.yaml").write_text("denoising_steps: 50")
    assert run(policy, yaml, f"--output={folder}/b") == 2
    assert "found no --task" in capsys.readouterr().err


def test_without_torch_one_line_says_what_to_install(folder, capsys, monkeypatch):
    arguments = save(folder, edited(lambda state: None))
    for name in list(sys.modules):
        if name.startswith("dynvgd_jax.torch_weights"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run(*arguments) == 2
    line = capsys.readouterr().err
    assert "requirements-torch.txt" in line and line.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "found none, expected one of --policy, --critic"),
        (["--policy=a", "--critic=b"], "found --policy and --critic"),
        (["--policy=a"], "needs --output"),
        (["--policy=/x", "--output=b"], "no such file"),
        (["--policy=", "--output=b"], "--policy: found nothing"),
        (["--policy=~nobody-at-all/a", "--output=b"], "no home folder"),
        (["--policy=a", "--output=b", "--filter_key=train"], "without --dataset"),
        (
            ["--policy=a", "--task=can", "--output=b", "--config.seed=3"],
            "with --critic only",
        ),
        (["--critic=a", "--output=b"], "no configuration given"),
        (["--critic=a", "--output=b", "--config=configs/can_demos.py"], "found demos"),
        (
            ["--critic=/x", "--output=b", "--config=configs/can_ddim8.py"],
            "no such file",
        ),
        (
            ["--config", "configs/can_ddim8.py", "--critic=/x", "--output=b"],
            "no such file",
        ),
        (["--policy=a", "--task=can", "--output=b", "config=3"], "found 'config=3'"),
        (["--dataset=/x.hdf5", "--output=b"], "no such file"),
        (["--inspect=/x"], "no such file"),
        (["--to_torch=/x", "--output=b"], "no policy folder"),
        (["stray"], "found 'stray'"),
    ],
)
def test_mistakes_on_the_command_line_give_one_line(capsys, arguments, word):
    assert run(*arguments) == 2
    line = capsys.readouterr().err
    assert word in line and line.count("\n") == 1
