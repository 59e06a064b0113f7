"""Pre-training end to end on the analytic task, and its mistakes."""

import csv
import json

import jax
import numpy as np
import pytest

from configs import can_pretrain, lift_pretrain, square_pretrain
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import set_fields
from dynvgd_jax.core.normalize import (
    Normalization,
    normalize_action,
    normalize_obs,
    save_normalization,
)
from dynvgd_jax.core.output import quietly
from dynvgd_jax.diffusion.policy_files import load_policy
from dynvgd_jax.training.pretrain import pretrain
from tests.support.reach import ReachEnv

LIMITS = Normalization(
    *(np.full(n, v, np.float32) for n, v in ((4, -1), (4, 1), (2, -1), (2, 1)))
)


class ScaledReachEnv(ReachEnv):
    """Normalised observations and actions at the border, like robosuite's."""

    def __init__(self, normalization, num_envs):
        super().__init__(num_envs)
        assert normalization.obs_min.shape == (4,)


SHORT = {"num_steps": 60, "eval.episodes": 0, "validation_share": 0.0}


def good_demonstrations(num_episodes):
    """Straight to the goal: (obs, actions) of 16 steps an episode."""
    env = ReachEnv(num_episodes)
    everyone = np.arange(num_episodes)
    obs = env.reset(everyone, everyone)
    steps = []
    for _ in range(16):
        way = obs[:, 2:] - obs[:, :2]
        action = np.clip(way / 0.1, -1, 1)
        steps.append((obs, action))
        obs = env.step(everyone, action[:, None]).obs
    stacked = (np.stack(part, 1) for part in zip(*steps, strict=True))
    return [part.reshape(num_episodes * 16, -1) for part in stacked]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reach")
    obs, actions = good_demonstrations(80)
    np.savez(
        folder / "train.npz",
        states=normalize_obs(LIMITS, obs),
        actions=normalize_action(LIMITS, actions),
        traj_lengths=np.full(80, 16),
    )
    save_normalization(folder / "normalization.npz", LIMITS)
    return folder / "train.npz"


def small_config(dataset, changes):
    fields = {
        "dataset": str(dataset),
        "network.hidden_dims": (64, 64, 64),
        "num_steps": 1200,
        "batch_size": 64,
        "learning_rate": 2e-3,
        "warmup_steps": 20,
        "ema_start_step": 200,
        "eval.episodes": 20,
        "eval.num_envs": 8,
        "eval.every_steps": 800,
        "eval.ddim_steps": 4,
    }
    return set_fields(can_pretrain.get_config(), fields | changes)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "a"
    summaries = pretrain(small_config(dataset, {}), workdir, ScaledReachEnv)
    return workdir, summaries


@pytest.mark.slow
def test_learns_to_reach(run):
    # A fresh network's actions are near random and do not leave the start's vicinity.
    _, summaries = run
    assert [s.control_steps for s in summaries] == [800, 1200]
    assert summaries[-1].policy == "base/randn" and summaries[-1].episodes == 20
    assert summaries[-1].success_chunk >= 18


def test_says_what_it_does_and_what_to_type_next(dataset, tmp_path, capsys):
    short = SHORT | {"eval.episodes": 2, "eval.num_envs": 2, "eval.every_steps": 30}
    config = small_config(dataset, short)
    seed = config.eval.seed
    pretrain(config, tmp_path / "run", ScaledReachEnv)
    said = capsys.readouterr()
    lines = said.err.splitlines()
    for steps in (30, 60):
        start = f"evaluated at {steps} gradient steps: base/randn: success "
        assert sum(line.startswith(start) for line in lines) == 1
    policy = tmp_path / "run" / "policy"
    assert said.out.splitlines()[-3:] == [
        f"curves:   tensorboard --logdir={tmp_path / 'run'}",
        f"episodes: python -m dynvgd_jax.evaluate {policy} --seed={seed + 1}",
        "steer it: python -m dynvgd_jax.launch --config=configs/can_ddim8.py:quick "
        f"--config.base_policy={policy}",
    ]
    with quietly():
        pretrain(small_config(dataset, short), tmp_path / "quiet", ScaledReachEnv)
    said = capsys.readouterr()
    assert said.err == "" and "tensorboard" not in said.out
    assert "Success with 95 % intervals" in said.out


def test_leaves_a_loadable_policy(run, dataset):
    workdir, summaries = run
    policy = load_policy(workdir / "policy")
    policy.require_fit(4, 2, 4)
    assert policy.schedule.num_train_timesteps == 20 and policy.task == "can"
    metrics = policy.metadata["metrics"]
    assert metrics["gradient_steps"] == 1200
    assert metrics["eval/success_rate"] == summaries[-1].success_chunk / 20
    assert 0 < metrics["pretrain/validation_loss"] < 1
    assert policy.metadata["dataset"]["file"] == "train.npz"
    assert str(dataset.parent) not in (workdir / "policy/policy.json").read_text()
    np.testing.assert_array_equal(policy.normalization.obs_max, LIMITS.obs_max)
    snapshots = [path.name for path in (workdir / "snapshots").iterdir()]
    assert snapshots == ["800"]
    early = load_policy(workdir / "snapshots/800").params["out"]["kernel"]
    assert not np.array_equal(early, policy.params["out"]["kernel"])


def test_writes_the_run_files(run):
    workdir, _ = run
    with open(workdir / "eval.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40 and {row["control_steps"] for row in rows} == {"800", "1200"}
    assert len({row["seed"] for row in rows}) == 20
    assert json.loads((workdir / "config.json").read_text())["num_steps"] == 1200


def test_same_seed_same_bits_without_an_environment(dataset, tmp_path):
    folders = {"a": {"seed": 3}, "b": {"seed": 3, "log.every_steps": 7}}
    for name, more in (folders | {"c": {"seed": 4}}).items():
        config = small_config(dataset, SHORT | more)
        assert pretrain(config, tmp_path / name) == []
    a, b, c = (load_policy(tmp_path / name / "policy").params for name in "abc")
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert not np.array_equal(a["out"]["kernel"], c["out"]["kernel"])


def test_a_flow_is_another_kind_of_the_same_job(dataset, tmp_path):
    """Without steps of diffusion: its decode may take more than T."""
    flow = {"policy_kind": "flow_mlp", "eval.ddim_steps": 40, "validation_share": 0.1}
    policies = []
    for name, more in (("a", flow), ("b", flow), ("diffusion", {"seed": 0})):
        pretrain(small_config(dataset, SHORT | more), tmp_path / name)
        policies.append(load_policy(tmp_path / name / "policy"))
    a, b, other = policies
    assert (a.kind, a.num_train_timesteps) == ("flow_mlp", 0)
    assert (other.kind, other.num_train_timesteps) == ("diffusion_mlp", 20)
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)
    assert not np.array_equal(a.params["out"]["kernel"], other.params["out"]["kernel"])
    # after 60 steps it still predicts a velocity of about 0, of variance 1 + E[a^2]
    assert 0.3 < a.metadata["metrics"]["pretrain/validation_loss"] < 2.2


def test_existing_run_is_not_touched(run, dataset):
    workdir, _ = run
    before = sorted(path for path in workdir.rglob("*"))
    with pytest.raises(UserError, match="holds a run already"):
        pretrain(small_config(dataset, {}), workdir, ScaledReachEnv)
    assert sorted(path for path in workdir.rglob("*")) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "nowhere/train.npz"}, "configs/can_demos.py --workdir=data/can"),
        ({"env.num_threads": -1}, "config.env.num_threads: found -1"),
        ({"chunk_len": 8}, r"\(4, 2, 8\), expected \(4, 2, 4\)"),
        ({"chunk_len": 17}, "17 steps"),
        ({"num_steps": 0}, "config.num_steps: found 0"),
        ({"eval.ddim_steps": 40}, "found ddim_steps 40, expected 1 to 20"),
        ({"policy_kind": "flow"}, "config.policy_kind: .*did you mean 'flow_mlp'"),
        ({"eval.noise": "zero"}, "config.eval.noise"),
        ({"task": "cann"}, "did you mean 'can'"),
        ({"network.activation": "tanh"}, "config.network: found activation 'tanh'"),
        ({"network.hidden_dims": (8, 8)}, "odd number of equal widths"),
    ],
)
def test_mistakes(dataset, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        pretrain(small_config(dataset, changes), tmp_path / "run", ScaledReachEnv)
    assert not (tmp_path / "run").exists()


def test_divergence_is_reported(dataset, tmp_path):
    broken = np.load(dataset)
    np.savez(
        tmp_path / "train.npz",
        **{name: broken[name] for name in ("actions", "traj_lengths")},
        states=broken["states"] * 1e30,
    )
    save_normalization(tmp_path / "normalization.npz", LIMITS)
    config = small_config(tmp_path / "train.npz", SHORT)
    with pytest.raises(UserError, match=r"diverged.*lower learning_rate"):
        pretrain(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("module", "num_train", "dims"),
    [
        (can_pretrain, 20, (16, (512,) * 3, ())),
        (lift_pretrain, 20, (16, (512,) * 3, ())),
        (square_pretrain, 100, (32, (1024,) * 3, (512, 64))),
    ],
)
def test_published_configurations(module, num_train, dims):
    config = module.get_config()
    network = config.network
    assert (network.time_dim, network.hidden_dims, network.cond_dims) == dims
    assert config.num_train_timesteps == num_train and config.chunk_len == 4
    assert config.job == "pretrain" and config.is_locked
    assert config.dataset == f"data/{config.task}/train.npz"
    assert config.num_steps % config.eval.every_steps == 0
    assert (config.learning_rate, config.weight_decay) == (1e-4, 1e-6)
    assert module.get_config("builtin").learning_rate == 1e-3
