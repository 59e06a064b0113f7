"""Files that are almost right: read, or answered with advice that works."""

import pathlib
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

import convert_torch_ckpt
from dynvgd_jax import load_agent, load_policy
from dynvgd_jax.core.normalize import Normalization, save_normalization
from tests.support import torch_reference as ref

SIZES = ref.SMALL
INPUTS = SIZES.obs + SIZES.chunk * SIZES.act


def run(*arguments):
    return convert_torch_ckpt.main(["convert_torch_ckpt.py", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path):
    ones = [np.ones(n, np.float32) for n in (SIZES.obs, SIZES.act)]
    norm = Normalization(-ones[0], ones[0], -ones[1], ones[1])
    save_normalization(tmp_path / "normalization.npz", norm)
    return tmp_path


@pytest.fixture
def net():
    return ref.make_net(SIZES)


def prefixed(prefix, net):
    return {f"{prefix}{k}": v for k, v in net.state_dict().items()}


def convert(path, name="out"):
    said = ("--task=can", "--num_train_timesteps=20")
    return run(f"--policy={path}", *said, f"--output={path.parent}/{name}")


def assert_converted(folder, net, name="out", change=lambda v: v):
    """The policy holds the network's tensors, bit for bit."""
    back = folder / f"{name}.back.pt"
    assert run(f"--to_torch={folder}/{name}", f"--output={back}") == 0
    found = torch.load(back, weights_only=True)["model"]
    expected = prefixed("network.", net)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], change(v)) for k, v in expected.items())


WRAPPED = [
    lambda net: {"model": prefixed("network._orig_mod.", net)},
    lambda net: {"model": prefixed("_orig_mod.network.", net)},
    lambda net: {"ema": prefixed("module.network.", net)},
    lambda net: {"model": prefixed("network.module.", net)},
    lambda net: {"model": prefixed("_orig_mod.module.network._orig_mod.", net)},
    lambda net: prefixed("network.", net),
    lambda net: prefixed("module.network.", net),
    lambda net: prefixed("", net),
    lambda net: prefixed("module.", net),
    lambda net: {"state_dict": prefixed("network.", net), "epoch": 3},
    lambda net: {"model_state_dict": prefixed("", net), "optimizer": {"a": 1}},
]


@pytest.mark.parametrize("wrap", WRAPPED)
def test_wrapped_and_flat_states_are_understood(folder, net, wrap):
    torch.save(wrap(net), folder / "s.pt")
    assert convert(folder / "s.pt") == 0
    assert_converted(folder, net)
    assert run(f"--inspect={folder}/s.pt") == 0


def test_a_flat_fine_tuned_state(folder, net):
    state = prefixed("actor.", net) | prefixed("module.actor_ft.", net)
    torch.save(state, folder / "s.pt")
    said = ("--task=can", "--num_train_timesteps=20", "--ft_denoising_steps=4")
    assert run(f"--policy={folder}/s.pt", *said, f"--output={folder}/out") == 0
    assert load_policy(folder / "out").ft_denoising_steps == 4


def test_flat_files_have_no_other_weights(folder, net, capsys):
    torch.save(prefixed("network.", net), folder / "s.pt")
    arguments = (f"--policy={folder}/s.pt", "--task=can", f"--output={folder}/out")
    assert run(*arguments, "--weights=ema") == 2
    assert "drop --weights" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_kept_as_float32(folder, net, capsys, dtype):
    state = {k: v.to(dtype) for k, v in prefixed("network.", net).items()}
    torch.save({"model": state}, folder / "s.pt")
    assert convert(folder / "s.pt") == 0
    name = str(dtype)
    text = capsys.readouterr().err
    assert f"holds {name}, kept as float32" in text
    assert ("rounded" in text) == (dtype == torch.float64)
    assert_converted(folder, net, change=lambda v: v.to(dtype).float())


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64])
def test_numbers_that_are_no_floats_are_refused(folder, net, capsys, dtype):
    state = {k: v.to(dtype) for k, v in prefixed("network.", net).items()}
    torch.save({"model": state}, folder / "s.pt")
    assert convert(folder / "s.pt") == 2
    assert f"is {dtype}, expected a float32 tensor" in capsys.readouterr().err


def test_keys_that_become_the_same_are_refused(folder, net, capsys):
    state = prefixed("network.", net) | prefixed("module.network.", net)
    torch.save(state, folder / "s.pt")
    assert convert(folder / "s.pt") == 2
    assert "two tensors are named network." in capsys.readouterr().err


def follow(advice):
    """Runs the command of a message; its last words."""
    command = re.search(r"python -c (.*)$", advice.strip())[1]
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -c {command}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return re.search(r"then give (.+?): python", advice)[1]


class Node(dict):
    """What an omegaconf node is: a class of another package."""


FOREIGN = [Node(a=1)]
MORE_FOREIGN = [
    np.float64(0.5),
    pathlib.Path("/data/can"),
    np.random.default_rng(0).normal(size=3),
    pathlib.PurePosixPath("/data/can"),
    [Node(a=1)],
]


@pytest.mark.parametrize(
    "value",
    FOREIGN + [pytest.param(value, marks=pytest.mark.slow) for value in MORE_FOREIGN],
    ids=lambda v: type(v).__name__,
)
def test_advice_about_another_class_works_when_followed(
    folder, net, capsys, monkeypatch, value
):
    content = {"epoch": 3, "ema": prefixed("network.", net), "cfg": value}
    torch.save(content, folder / "it's s.pt")
    monkeypatch.setenv("PYTHONPATH", str(pathlib.Path(__file__).parents[2]))
    assert convert(folder / "it's s.pt") == 2
    line = capsys.readouterr().err
    assert "needs the class" in line and line.count("\n") == 1
    follow(line)
    new = folder / "it's s.pt.tensors.pt"
    assert convert(new) == 0
    assert_converted(folder, net)


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False])
def test_a_module_saved_as_such(folder, net, capsys, monkeypatch, whole):
    torch.save(net if whole else {"model": net, "epoch": 3}, folder / "s.pt")
    monkeypatch.setenv("PYTHONPATH", str(pathlib.Path(__file__).parents[2]))
    assert convert(folder / "s.pt") == 2
    new = pathlib.Path(follow(capsys.readouterr().err))
    assert convert(new) == 0
    assert_converted(folder, net)


def test_a_file_of_before_1_6(folder, net, capsys):
    content = {"model": prefixed("network.", net)}
    torch.save(content, folder / "s.pt", _use_new_zipfile_serialization=False)
    assert convert(folder / "s.pt") == 2
    new = pathlib.Path(follow(capsys.readouterr().err))
    assert convert(new) == 0
    assert_converted(folder, net)


def test_safetensors_are_told(folder, capsys):
    header = b'{"network.a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    size = len(header).to_bytes(8, "little")
    (folder / "s.pt").write_bytes(size + header + bytes(4))
    assert convert(folder / "s.pt") == 2
    line = capsys.readouterr().err
    assert "it is safetensors" in line and "load_file" in line


@pytest.fixture
def policy(folder, net):
    torch.save(prefixed("network.", net), folder / "s.pt")
    assert convert(folder / "s.pt", "base") == 0
    return folder / "base"


def critics_state(wrap="critic.", change=lambda v: v, **more):
    modules = [ref.make_critics(2, INPUTS, 8, 1, seed) for seed in (0, 1)]
    target = wrap.replace("critic.", "critic_target.")
    state = prefixed(wrap, modules[0]) | prefixed(target, modules[1])
    return {k: change(v) for k, v in state.items()} | more


def convert_critics(folder, policy, state, name="runs"):
    with zipfile.ZipFile(folder / "c.zip", "w") as archive:
        archive.writestr("policy.pth", ref.to_bytes(state))
    return give_critics(folder / "c.zip", policy, folder / name)


def give_critics(path, policy, output):
    configuration = ("--config=configs/can_ddim8.py", f"--config.base_policy={policy}")
    return run(f"--critic={path}", *configuration, f"--output={output}")


@pytest.mark.parametrize(
    "wrap",
    ["critic._orig_mod.", "_orig_mod.critic.", "module.critic.", "critic.module."],
)
def test_wrapped_critics_are_understood(folder, policy, wrap, capsys):
    assert convert_critics(folder, policy, critics_state(wrap)) == 0
    assert "gamma, rewards, the base policy" in capsys.readouterr().out
    assert convert_critics(folder, policy, critics_state(), "plain") == 0
    found, expected = (load_agent(folder / name) for name in ("runs", "plain"))
    one, other = (a.learner.critic.params for a in (found, expected))
    leaves = zip(*(ref_leaves(tree) for tree in (one, other)), strict=True)
    assert all(np.array_equal(a, b) for a, b in leaves)


def ref_leaves(tree):
    import jax

    return jax.tree.leaves(tree)


def test_critics_in_half_precision(folder, policy, capsys):
    state = critics_state(change=lambda v: v.half())
    assert convert_critics(folder, policy, state) == 0
    assert "holds torch.float16, kept as float32" in capsys.readouterr().err


@pytest.mark.slow
def test_advice_about_another_class_beside_critics(folder, policy, capsys):
    state = critics_state(path=pathlib.PurePosixPath("/data"))
    assert convert_critics(folder, policy, state) == 2
    line = capsys.readouterr().err
    assert "needs the class" in line and line.count("\n") == 1
    assert give_critics(follow(line), policy, folder / "runs") == 0
