"""Policy folders: round trip, sampling, and every way in which they can be wrong."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.normalize import Normalization, save_normalization
from dynvgd_jax.diffusion import base, policy_files
from dynvgd_jax.diffusion.ddim import make_ddim
from dynvgd_jax.diffusion.kinds import KINDS
from dynvgd_jax.diffusion.network import DiffusionMLP, bind
from dynvgd_jax.diffusion.policy import Policy
from dynvgd_jax.diffusion.policy_files import load_policy, save_policy
from dynvgd_jax.diffusion.schedule import ddim_schedule
from tests.diffusion.helpers import random_params


def make_policy(**fields):
    net = DiffusionMLP(5, 2, 4, hidden_dims=(16, 16, 16), **fields)
    rows = [np.arange(n, dtype=np.float32) + low for n, low in ((5, 0), (5, 9))]
    actions = [np.full(2, value, np.float32) for value in (-1, 1)]
    return Policy(
        network=net,
        params=random_params(net),
        num_train_timesteps=20,
        normalization=Normalization(*rows, *actions),
        task="reach",
        metadata={"source": "test", "steps": 3},
    )


@pytest.fixture
def folder(tmp_path):
    save_policy(tmp_path / "policy", make_policy())
    return tmp_path / "policy"


def batch(n=3):
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (n, 5)), rng.normal(size=(n, 4, 2))


@pytest.mark.parametrize(
    "fields",
    [{}, dict(cond_dims=(8, 4), activation="relu"), dict(layer_norm=True)],
    ids=["plain", "encoder", "norm"],
)
def test_round_trip(tmp_path, fields):
    policy = make_policy(**fields)
    save_policy(tmp_path / "p", policy)
    loaded = load_policy(tmp_path / "p")
    assert loaded.network == policy.network
    assert (loaded.task, loaded.metadata) == ("reach", policy.metadata)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, policy.params)
    jax.tree.map(np.testing.assert_array_equal, loaded.schedule, policy.schedule)
    for a, b in zip(loaded.normalization, policy.normalization, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.array_equal(loaded.sample(*batch()), policy.sample(*batch()))
    assert [p.name for p in tmp_path.iterdir()] == ["p"]


def test_sample_is_plain_ddim():
    policy, (obs, noise) = make_policy(), batch()
    schedule = ddim_schedule(policy.schedule, 4)
    obs32, noise32 = jnp.float32(obs), jnp.float32(noise)
    # the network as it is, not folded
    plain = make_ddim(lambda params: bind(policy.network, params), schedule)
    inputs = (policy.params, noise32, obs32)
    expected = jax.jit(functools.partial(base.sample, plain))(*inputs)
    chunk = policy.sample(obs, noise, ddim_steps=4)
    assert chunk.shape == (3, 4, 2) and chunk.dtype == jnp.float32
    np.testing.assert_allclose(chunk, expected, atol=2e-6)
    own = jax.jit(functools.partial(base.sample, policy.denoiser(4)))(*inputs)
    np.testing.assert_allclose(own, expected, atol=2e-6)
    assert not np.allclose(chunk, policy.sample(obs, noise, ddim_steps=8))


def test_rows_do_not_depend_on_the_batch():
    policy, (obs, noise) = make_policy(), batch(8)
    whole = policy.sample(obs, noise)
    np.testing.assert_allclose(policy.sample(obs[:3], noise[:3]), whole[:3], atol=2e-6)


@pytest.mark.parametrize(
    ("obs_shape", "noise_shape"),
    [((3, 4), (3, 4, 2)), ((3, 5), (2, 4, 2)), ((5,), (1, 4, 2)), ((3, 5), (3, 8))],
)
def test_sample_checks_shapes(obs_shape, noise_shape):
    with pytest.raises(ValueError, match=r"expected \(B, 5\)"):
        make_policy().sample(np.zeros(obs_shape), np.zeros(noise_shape))


def test_sample_checks_steps():
    with pytest.raises(UserError, match="1 to 20"):
        make_policy().sample(*batch(), ddim_steps=40)


def test_require_fit():
    policy = make_policy()
    policy.require_fit(5, 2, 4)
    with pytest.raises(UserError, match=r"\(5, 2, 4\), expected \(23, 7, 4\)"):
        policy.require_fit(23, 7, 4)


def test_require_task():
    policy = make_policy()
    policy.require_task("reach")
    with pytest.raises(UserError, match="for task 'reach', expected one for 'square'"):
        policy.require_task("square")


def test_never_overwrites(folder):
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError, match="exists already"):
        save_policy(folder, make_policy())
    assert sorted(folder.rglob("*")) == before


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match="no policy folder"):
        load_policy(tmp_path / "nothing")


def test_unknown_builtin():
    with pytest.raises(UserError, match="no built-in policy 'sqare'"):
        load_policy("builtin:sqare")


def test_builtin_folder(folder, monkeypatch):
    monkeypatch.setattr(policy_files, "ASSETS", folder.parent)
    assert load_policy("builtin:policy").task == "reach"


@pytest.mark.parametrize("name", ["policy.json", "normalization.npz", "weights"])
def test_incomplete_folder(folder, name):
    (folder / name).rename(folder / "elsewhere")
    with pytest.raises(UserError) as error:
        load_policy(folder)
    assert name in str(error.value) and "\n" not in str(error.value)


def edit(folder, change):
    path = folder / "policy.json"
    description = json.loads(path.read_text())
    change(description)
    path.write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["network"].update(hidden_dims=[32, 32, 32]), "block_0_l1"),
        (lambda d: d["network"].update(cond_dims=[8]), "cond_0"),
        (lambda d: d["network"].update(obs_dim=6), "trunk_in"),
        (lambda d: d["network"].update(activation="tanh"), "tanh"),
        (lambda d: d["network"].update(depth=3), "depth"),
        (lambda d: d["network"].pop("action_dim"), "action_dim"),
        (lambda d: d.pop("task"), "task"),
        (lambda d: d.update(num_train_timesteps=1), "at least 2"),
        (lambda d: d.update(format_version=99), "format 99"),
    ],
)
def test_description_that_does_not_fit(folder, change, message):
    edit(folder, change)
    with pytest.raises(UserError, match=message):
        load_policy(folder)


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_damaged_description(folder, text):
    (folder / "policy.json").write_text(text)
    with pytest.raises(UserError, match="damaged"):
        load_policy(folder)


def test_normalization_of_another_task(folder):
    other = Normalization(np.zeros(9), np.ones(9), np.zeros(2), np.ones(2))
    save_normalization(folder / "normalization.npz", other)
    with pytest.raises(UserError, match=r"\(9, 2\).*expected \(5, 2\)"):
        load_policy(folder)


def test_folders_without_a_kind_are_the_first_kind(folder):
    assert json.loads((folder / "policy.json").read_text())["kind"] == "diffusion_mlp"
    edit(folder, lambda d: d.pop("kind"))
    assert load_policy(folder).network == make_policy().network


@pytest.mark.parametrize("kind", ["unet", None, 3, ["diffusion_mlp"]])
def test_an_unknown_kind_is_one_line(folder, kind):
    edit(folder, lambda d: d.update(kind=kind))
    with pytest.raises(UserError, match=r"of kind .* expected one of diffusion_mlp"):
        load_policy(folder)


def test_another_kind_is_one_line_of_the_table(tmp_path, monkeypatch):
    monkeypatch.setitem(KINDS, "unet", KINDS["diffusion_mlp"])
    other = dataclasses.replace(make_policy(), kind="unet")
    for policy in (other, make_policy()):
        save_policy(tmp_path / policy.kind, policy)
        assert load_policy(tmp_path / policy.kind).kind == policy.kind
    with pytest.raises(UserError, match=r"kind 'unet', expected 'flow_mlp'; .*_kind"):
        other.require_kind("flow_mlp")


def test_home_folders_are_found(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load_policy("~/policy").task == "reach"


def test_schedules_compare_by_value():
    one, same = (make_policy().schedule for _ in range(2))
    other = dataclasses.replace(make_policy(), num_train_timesteps=21).schedule
    assert len({one, same}) == 1 and one == same
    assert len({one, other}) == 2 and one != other
    assert one != tuple(one)[:2]
