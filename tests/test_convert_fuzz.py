"""560 mutated files: each gives the same output as the sound one, or one line.

Never a traceback, a hang, or half an output. Cut, with flipped bytes, or saved again
with other keys, shapes and words. Policies are plain, residual, fine-tuned, compiled
and flat ones.
"""

import contextlib
import io
import json
import shutil
import time
import zipfile

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import convert_torch_ckpt
from dynvgd_jax import load_policy
from dynvgd_jax.agent import load_agent
from dynvgd_jax.core.normalize import Normalization, save_normalization
from dynvgd_jax.demos import hdf5
from dynvgd_jax.demos.dataset import load_dataset
from dynvgd_jax.demos.files import DemoEpisode, write_dppo, write_robomimic
from dynvgd_jax.diffusion.diffusion_mlp import BASE, FINE_TUNED
from dynvgd_jax.torch_weights.layouts import from_flax
from tests.support import demonstrations as demos
from tests.support import torch_reference as ref
from tests.torch_weights.test_dppo_config import FINE_TUNING

OTHER_FLOATS = (torch.float16, torch.float64)
CPU_LIMIT_S = 20  # of the process: the machine's load does not count
SIZES = ref.SMALL._replace(hidden=8)
INPUTS = SIZES.obs + SIZES.chunk * SIZES.act

POSITIONS = st.integers(0, 2**20)
BYTES = st.one_of(
    st.tuples(st.just("cut"), POSITIONS),
    st.tuples(
        st.just("flip"),
        st.lists(st.tuples(POSITIONS, st.integers(1, 255)), min_size=1, max_size=4),
    ),
)
TENSORS = st.tuples(
    st.sampled_from(["rename", "drop", "copy", "shape", "type", "nan", "value"]),
    POSITIONS,
)


def fuzz(count):
    return settings(max_examples=count, deadline=None, derandomize=True, database=None)


def mutate_bytes(content, kind, detail):
    if kind == "cut":
        return content[: detail % len(content)]
    changed = bytearray(content)
    for position, mask in detail:
        changed[position % len(content)] ^= mask
    return bytes(changed)


def mutate_tensors(state, kind, number):
    """A copy of the state with one tensor that is not as it should be."""
    names = sorted(state)
    name = names[number % len(names)]
    other = f"{name[: number % len(name)]}x{name[number % len(name) :]}"
    state = dict(state)
    value = state[name]
    if kind in ("rename", "drop"):
        del state[name]
    if kind in ("rename", "copy"):
        state[other] = value
    elif kind == "shape":
        # Not a square matrix turned over: that is another sound policy.
        longer = torch.cat([value, value])
        shapes = (value[:-1], value[None], value.flatten(), value.new_zeros(0), longer)
        state[name] = shapes[number % len(shapes)].contiguous()
    elif kind == "type":
        types = (torch.float16, torch.float64, torch.int32, torch.bool)
        state[name] = value.to(types[number % len(types)])
    elif kind == "nan":
        state[name] = torch.full_like(value, (np.nan, np.inf)[number % 2])
    elif kind == "value":
        state[name] = (None, 3, "text", [value], {"a": value})[number % 5]
    return state


def convert(folder, *arguments):
    """Runs the tool; returns whether it succeeded, after checking how it failed."""
    before = sorted(folder.rglob("*"))
    out, err, start = io.StringIO(), io.StringIO(), time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = convert_torch_ckpt.main(["convert_torch_ckpt.py", *arguments])
    assert time.process_time() - start < CPU_LIMIT_S
    if code == 0:
        return True
    line = err.getvalue()
    assert code == 2 and out.getvalue() == ""
    assert line.startswith("convert_torch_ckpt.py: ") and line.count("\n") == 1, line
    assert sorted(folder.rglob("*")) == before
    return False


def assert_same_trees(found, expected):
    import jax

    jax.tree.map(np.testing.assert_array_equal, found, expected)


def prefixed(prefix, net):
    return {f"{prefix}.{k}": v for k, v in net.state_dict().items()}


def fine_tuned():
    early, late = (ref.make_net(SIZES, seed=seed) for seed in (0, 1))
    state = prefixed("network", early) | prefixed("actor", early)
    return state | prefixed("actor_ft", late) | {"critic.Q1.weight": torch.ones(2)}


# Kind -> its state_dict.
STATES = {
    "residual": lambda: prefixed("network", ref.make_net(SIZES)),
    "plain": lambda: prefixed("network", ref.make_net(SIZES, "plain-norm")),
    "compiled": lambda: prefixed("module.network._orig_mod", ref.make_net(SIZES)),
    "flat": lambda: prefixed("network", ref.make_net(SIZES)),
    "fine-tuned": fine_tuned,
}
KINDS = st.sampled_from(sorted(STATES))


def content_of(kind, state):
    """What the file of a kind holds."""
    return state if kind == "flat" else {"epoch": 0, "model": state}


def wanted(kind, state):
    """Prefix -> torch key -> array of each network that is to be converted."""
    prefixes = ("actor", "actor_ft") if kind == "fine-tuned" else ("network",)
    groups = {prefix: {} for prefix in prefixes}
    for key, value in state.items():
        name = key.replace("module.", "").replace("_orig_mod.", "")
        prefix, _, rest = name.partition(".")
        if prefix in groups:
            groups[prefix][rest] = value.to(torch.float32).numpy()
    return groups


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    """Kind -> (folder, state, arguments) of a sound policy, in `folder/sound`."""
    bounds = [np.ones(n, np.float32) for n in (SIZES.obs, SIZES.act)]
    norm = Normalization(-bounds[0], bounds[0], -bounds[1], bounds[1])
    found = {}
    for kind, make in STATES.items():
        folder, state = tmp_path_factory.mktemp("policy"), make()
        save_normalization(folder / "normalization.npz", norm)
        torch.save(content_of(kind, state), folder / "s.pt")
        said = ("--task=can", "--num_train_timesteps=20")
        said += ("--ft_denoising_steps=2",) if kind == "fine-tuned" else ()
        arguments = (f"--policy={folder}/s.pt", *said)
        assert convert(folder, *arguments, f"--output={folder}/sound")
        found[kind] = folder, state, arguments
    return found


@pytest.fixture(scope="module")
def policy(policies):
    return policies["residual"]


def try_policy(policies, kind, content, state):
    folder, _, arguments = policies[kind]
    (folder / "s.pt").write_bytes(content)
    if convert(folder, *arguments, f"--output={folder}/out"):
        found, sound = (load_policy(folder / name) for name in ("out", "sound"))
        shutil.rmtree(folder / "out")
        assert found.network == sound.network
        trees = [found.params]
        if kind == "fine-tuned":
            trees = [found.params[BASE], found.params[FINE_TUNED]]
        for params, arrays in zip(trees, wanted(kind, state).values(), strict=True):
            assert_same_trees(from_flax(found.network, params), arrays)


@pytest.mark.slow
@fuzz(130)
@given(KINDS, BYTES)
def test_policies_with_other_bytes(policies, kind, mutation):
    state = policies[kind][1]
    content = ref.to_bytes(content_of(kind, state))
    try_policy(policies, kind, mutate_bytes(content, *mutation), state)


@pytest.mark.slow
@fuzz(60)
@given(KINDS, TENSORS)
def test_policies_with_other_tensors(policies, kind, mutation):
    state = mutate_tensors(policies[kind][1], *mutation)
    try_policy(policies, kind, ref.to_bytes(content_of(kind, state)), state)


@pytest.fixture(scope="module")
def critics(policy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("critics")
    modules = [ref.make_critics(2, INPUTS, 8, 1, seed) for seed in (0, 1)]
    optimizer = torch.optim.Adam(modules[0].parameters(), lr=5e-4)
    zeros = torch.zeros(3, SIZES.obs), torch.zeros(3, INPUTS - SIZES.obs)
    modules[0](*zeros).sum().backward()
    optimizer.step()
    state = {f"critic.{k}": v for k, v in modules[0].state_dict().items()}
    state |= {f"critic_target.{k}": v for k, v in modules[1].state_dict().items()}
    arguments = (
        f"--critic={folder}/c.zip",
        "--config=configs/can_ddim8.py",
        f"--config.base_policy={policy[0]}/sound",
    )
    write_save(folder / "c.zip", state, optimizer.state_dict())
    assert convert(folder, *arguments, f"--output={folder}/sound")
    return folder, state, arguments, optimizer.state_dict()


def write_save(path, state, moments):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("policy.pth", ref.to_bytes(state))
        archive.writestr("critic.optimizer.pth", ref.to_bytes(moments))


def try_critics(critics):
    folder, _, arguments, _ = critics
    if convert(folder, *arguments, f"--output={folder}/out"):
        found, expected = (load_agent(folder / name) for name in ("out", "sound"))
        shutil.rmtree(folder / "out")
        assert_same_trees(found.learner, expected.learner)


@pytest.mark.slow
@fuzz(70)
@given(BYTES)
def test_critics_with_other_bytes(critics, mutation):
    folder, state, _, moments = critics
    write_save(folder / "c.zip", state, moments)
    content = (folder / "c.zip").read_bytes()
    (folder / "c.zip").write_bytes(mutate_bytes(content, *mutation))
    try_critics(critics)


@pytest.mark.slow
@fuzz(40)
@given(TENSORS)
def test_critics_with_other_tensors(critics, mutation):
    folder, state, _, moments = critics
    changed = mutate_tensors(state, *mutation)
    write_save(folder / "c.zip", changed, moments)
    if any(getattr(v, "dtype", None) in OTHER_FLOATS for v in changed.values()):
        # Such a tensor is rounded: what is written is not the sound one's.
        arguments = (*critics[2], f"--output={folder}/out")
        assert convert(folder, *arguments)
        shutil.rmtree(folder / "out")
    else:
        try_critics(critics)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    episodes = [
        DemoEpisode(
            obs=rng.normal(size=(length, 19)).astype(np.float32),
            actions=rng.uniform(-1, 1, (length, 7)).astype(np.float32),
            rewards=np.ones(length, np.float32),
            last_obs=np.zeros(19, np.float32),
        )
        for length in (4, 6)
    ]
    write_dppo(folder, episodes)
    write_robomimic(folder / "x.hdf5", episodes, {})
    return folder, {n: (folder / n).read_bytes() for n in ("train.npz", "x.hdf5")}


@fuzz(80)
@given(BYTES)
def test_npz_data_sets_with_other_bytes(data, mutation):
    folder, contents = data
    source = folder / "train.npz"
    source.write_bytes(contents["train.npz"])
    expected = load_dataset(source, "lift")
    source.write_bytes(mutate_bytes(contents["train.npz"], *mutation))
    if convert(folder, f"--dataset={source}", f"--output={folder}/out"):
        found = load_dataset(folder / "out" / "train.npz", "lift")
        shutil.rmtree(folder / "out")
        assert_same_trees(found[:4], expected[:4])


@pytest.mark.slow
@fuzz(80)
@given(BYTES)
def test_hdf5_data_sets_with_other_bytes(data, mutation):
    folder, contents = data
    source = folder / "x.hdf5"
    source.write_bytes(mutate_bytes(contents["x.hdf5"], *mutation))
    if convert(folder, f"--dataset={source}", f"--output={folder}/out"):
        with np.load(folder / "out" / "train.npz") as found:
            lengths, rewards = found["traj_lengths"], found["rewards"]
            states = found["states"]
        shutil.rmtree(folder / "out")
        # HDF5 has no checksum over these values: what the library itself reads counts.
        with h5py.File(source) as file:
            groups = [file["data"][name] for name in sorted(file["data"])]
            assert lengths.tolist() == [len(g["actions"]) for g in groups]
            read = np.concatenate([g["rewards"][()] for g in groups])
        np.testing.assert_array_equal(rewards, read.astype(np.float32))
        assert np.isfinite(states).all()


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """A file with words, as robomimic writes them, and its sound output."""
    folder = tmp_path_factory.mktemp("described")
    source = demos.write(folder / "x.hdf5", masks={"train": [0, 2]})
    assert convert(folder, f"--dataset={source}", f"--output={folder}/sound")
    before, hdf5._WORDS_TIMEOUT_S = hdf5._WORDS_TIMEOUT_S, 2
    yield source
    hdf5._WORDS_TIMEOUT_S = before


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner)
    ),
    max_leaves=6,
)
NAMES = ("env_name", "env_version", "type", "env_kwargs", "other")
INSIDE = ("robots", "control_freq", "controller_configs", "reward_shaping")
WORDS = st.one_of(
    JSON,
    st.dictionaries(st.sampled_from(NAMES), JSON).map(lambda d: demos.env_args() | d),
    st.dictionaries(st.sampled_from(INSIDE), JSON).map(
        lambda d: demos.env_args(env_kwargs=d)
    ),
    st.dictionaries(st.sampled_from(["type", "kp", "control_delta"]), JSON).map(
        lambda d: demos.env_args(controller=d)
    ),
    st.text(),
    st.integers(0, 2**16),  # an attribute that is no text
    st.tuples(st.just("flip"), POSITIONS, st.integers(1, 255)),
)


@pytest.mark.slow
@fuzz(60)
@given(WORDS)
def test_hdf5_with_other_words(described, words):
    folder = described.parent
    content = described.read_bytes()
    try:
        if isinstance(words, tuple):  # where the texts and their sizes lie
            changed, place = bytearray(content), content.rindex(b"GCOL")
            changed[place + words[1] % 64] ^= words[2]
            described.write_bytes(bytes(changed))
        else:
            with h5py.File(described, "a") as file:
                is_plain = isinstance(words, int) and not isinstance(words, bool)
                text = words % 2**31 if is_plain else json.dumps(words)
                file["data"].attrs["env_args"] = text
        arguments = (f"--dataset={described}", "--task=square")
        if convert(folder, *arguments, f"--output={folder}/out"):
            found, sound = (
                load_dataset(folder / name / "train.npz", None)
                for name in ("out", "sound")
            )
            shutil.rmtree(folder / "out")
            assert_same_trees(found[:4], sound[:4])
    finally:
        described.write_bytes(content)


@fuzz(40)
@given(BYTES)
def test_yaml_with_other_bytes(policy, mutation):
    folder, state, _ = policy
    torch.save({"epoch": 0, "model": state}, folder / "s.pt")
    path = folder / "x.yaml"
    path.write_bytes(mutate_bytes(FINE_TUNING.encode(), *mutation))
    convert(folder, f"--inspect={folder}/s.pt", f"--dppo_config={path}")
    path.unlink()
