"""Whole runs on Hopper: every method, evaluations by return, resumed bit for bit."""

import csv

import jax
import numpy as np
import pytest

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.normalize import Normalization
from dynvgd_jax.diffusion.network import DiffusionMLP, init_params
from dynvgd_jax.diffusion.policy import Policy
from dynvgd_jax.diffusion.policy_files import save_policy
from dynvgd_jax.training.loop import train
from tests.support.same_run import assert_equal_runs
from tests.support.tiny_run import tiny


def make_policy(folder, task="hopper"):
    obs_dim, action_dim = (11, 3) if task == "hopper" else (17, 6)
    network = DiffusionMLP(
        obs_dim=obs_dim,
        action_dim=action_dim,
        chunk_len=4,
        hidden_dims=(16, 16, 16),
        activation="relu",
    )
    ones = [np.ones(n, np.float32) for n in (obs_dim, action_dim)]
    norm = Normalization(-3 * ones[0], 3 * ones[0], -ones[1], ones[1])
    params = init_params(network, jax.random.key(0))
    save_policy(folder, Policy(network, params, 20, norm, task))
    return folder


def hopper(policy, **changes):
    return tiny(policy, task="hopper", reward_offset=0.0, target_clip=0.0, **changes)


def rows(folder):
    with open(folder / "eval.csv", newline="") as file:
        return list(csv.DictReader(file))


def stop_after(calls):
    left = iter(range(calls))
    return lambda: next(left, None) is None


@pytest.mark.slow
@pytest.mark.parametrize("method", ["base", "vgd", "dynvgd", "dsrl_na"])
def test_every_method_runs(tmp_path, method, capsys):
    summaries = train(
        hopper(make_policy(tmp_path / "p"), method=method), tmp_path / "r"
    )
    assert all(s.returns[1] <= s.returns[0] <= s.returns[2] for s in summaries[0])
    assert all(0 < s.mean_length < 1000 for s in summaries[0])
    shown = capsys.readouterr()
    assert "Return with 95 % intervals" in shown.out
    assert "normalised score" in shown.err + shown.out
    assert "diverge" not in shown.err
    for row in rows(tmp_path / "r"):
        assert row["success_chunk"] == "0" and float(row["return"]) > 0
    lengths = {int(row["length"]) % 4 for row in rows(tmp_path / "r")}
    assert lengths - {0}  # some fall within a chunk


@pytest.mark.slow
def test_a_run_goes_on_bit_for_bit(tmp_path):
    config = hopper(make_policy(tmp_path / "p"), bootstrap_at_time_limit=True)
    train(config, tmp_path / "straight")
    for calls in (40, 60):
        resume = (tmp_path / "cut").exists()
        train(config, tmp_path / "cut", resume=resume, stop=stop_after(calls))
    train(config, tmp_path / "cut", resume=True)
    assert_equal_runs(tmp_path / "cut", tmp_path / "straight")


def test_a_policy_of_another_environment_is_one_line(tmp_path):
    config = hopper(make_policy(tmp_path / "p", "walker2d"))
    with pytest.raises(UserError, match="for task 'walker2d', expected one for 'hop"):
        train(config, tmp_path / "r")
    assert not (tmp_path / "r").exists()
