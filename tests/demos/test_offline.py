"""Offline transitions: chunks by hand, rescaling, and a run that mixes them in."""

import contextlib

import jax
import numpy as np
import pytest

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.normalize import (
    Normalization,
    normalize_action,
    normalize_obs,
    save_normalization,
)
from dynvgd_jax.demos.dataset import Dataset
from dynvgd_jax.demos.files import DemoEpisode, write_dppo, write_robomimic
from dynvgd_jax.demos.offline import cut_transitions, load_offline
from dynvgd_jax.diffusion.policy_files import load_policy
from dynvgd_jax.replay import ring as replay_lib
from dynvgd_jax.training import setup
from dynvgd_jax.training.loop import train
from dynvgd_jax.training.replay_memory import make_draw
from dynvgd_jax.training.resume import Saved
from tests.support.reach import ReachEnv
from tests.support.same_run import scalars
from tests.support.tiny_run import VECTOR_STEP, random_policy, tiny

ONE = np.ones(1, np.float32)
UNIT = Normalization(-ONE, ONE, -ONE, ONE)


def data(rewards, lengths):
    steps = np.arange(len(rewards), dtype=np.float32)[:, None]
    lengths = np.array(lengths)
    return Dataset(steps, 10 * steps, np.float32(rewards), lengths, UNIT, {})


def test_chunks_by_hand():
    # Episode A: steps 0..3, its last rewarded; B: steps 4..6, never rewarded.
    found = cut_transitions("x", data([0, 0, 0, 1, 0, 0, 0], [4, 3]), 2, 1.0)
    # A: starts 0, 1, 2 (the last ends with success); B: start 4 only.
    np.testing.assert_array_equal(found.obs[:, 0], [0, 1, 2, 4])
    np.testing.assert_array_equal(found.action, [[0, 10], [10, 20], [20, 30], [40, 50]])
    np.testing.assert_array_equal(found.reward, [-2, -2, -1, -2])
    np.testing.assert_array_equal(found.discount, [1, 1, 0, 1])
    assert found.ended.all() and found.ended.dtype == bool  # each is drawn alone
    np.testing.assert_array_equal(found.next_obs[[0, 1, 3], 0], [2, 3, 6])


def test_what_cannot_teach_is_refused():
    with pytest.raises(UserError, match="holds no reward"):
        cut_transitions("x", data([0, 0, 0], [3]), 2, 1.0)
    with pytest.raises(UserError, match="no episode of 4 steps"):
        cut_transitions("x", data([0, 0, 1], [3]), 4, 1.0)
    with pytest.raises(UserError, match=r"reward_offset: found 0, expected 1 with"):
        cut_transitions("x", data([0, 0, 1], [3]), 2, 0.0)


def demonstrations():
    rng = np.random.default_rng(0)
    rewards = np.zeros(12, np.float32)
    rewards[-1] = 1
    return [
        DemoEpisode(
            obs=rng.normal(size=(12, 23)).astype(np.float32),
            actions=rng.uniform(-1, 1, (12, 7)).astype(np.float32),
            rewards=rewards,
            last_obs=np.zeros(23, np.float32),
        )
        for _ in range(3)
    ]


def test_demonstrations_are_rescaled_to_the_policys_scale(tmp_path):
    episodes = demonstrations()
    write_dppo(tmp_path, episodes)
    write_robomimic(tmp_path / "x.hdf5", episodes, {})
    low, high = np.full(23, -9, np.float32), np.full(23, 8, np.float32)
    norm = Normalization(low, high, low[:7], high[:7])
    for name in ("train.npz", "x.hdf5"):
        found = load_offline(tmp_path / name, norm, 4, 1.0, "can").transitions
        assert len(found.reward) == 3 * 9 and (found.discount == 0).sum() == 3
        assert found.discount.dtype == np.float32 and found.ended.all()
        expected = normalize_obs(norm, episodes[0].obs)
        np.testing.assert_allclose(found.obs[:9], expected[:9], atol=1e-5)
        np.testing.assert_allclose(found.next_obs[:8], expected[4:], atol=1e-5)
        actions = normalize_action(norm, episodes[0].actions)
        np.testing.assert_allclose(found.action[2], actions[2:6].ravel(), atol=1e-5)
    with pytest.raises(UserError, match=r"\(23, 7\).*expected \(1, 1\)"):
        load_offline(tmp_path / "train.npz", UNIT, 4, 1.0, "can")


def transition_arrays(count=40, obs_dim=4, action_dim=2):
    rng = np.random.default_rng(1)
    return {
        "states": rng.uniform(-1, 1, (count, obs_dim)),
        "states_next": rng.uniform(-1, 1, (count, obs_dim)),
        "actions": rng.uniform(-1, 1, (count, 4 * action_dim)),
        "rewards": rng.uniform(-4, 0, count),
        "terminals": rng.random(count) < 0.1,
    }


def reach_norm():
    ones = [np.ones(n, np.float32) for n in (4, 2)]
    return Normalization(-ones[0], ones[0], -ones[1], ones[1])


def test_transitions_flat_or_not_and_rescaled(tmp_path):
    arrays, norm = transition_arrays(), reach_norm()
    np.savez(tmp_path / "flat.npz", **arrays)
    np.savez(
        tmp_path / "deep.npz",
        **{**arrays, "actions": arrays["actions"].reshape(40, 4, 2)},
    )
    flat, deep = (
        load_offline(tmp_path / f"{name}.npz", norm, 4, 1.0, "can").transitions
        for name in ("flat", "deep")
    )
    jax.tree.map(np.testing.assert_array_equal, flat, deep)
    np.testing.assert_array_equal(flat.action, np.float32(arrays["actions"]))
    np.testing.assert_array_equal(flat.discount, ~arrays["terminals"])
    assert flat.ended.all()
    before = load_offline(tmp_path / "flat.npz", norm, 4, 1.0, "can").sha256
    # A scale beside the file: raw = 3 n here, then n = raw / 1 to the policy.
    wide = Normalization(*(3 * vector for vector in norm))
    save_normalization(tmp_path / "normalization.npz", wide)
    found, after = load_offline(tmp_path / "flat.npz", norm, 4, 1.0, "can")
    again = load_offline(tmp_path / "deep.npz", norm, 4, 1.0, "can").sha256
    assert before != after == again  # of the values, which a resumed run compares
    np.testing.assert_allclose(found.next_obs, 3 * arrays["states_next"], atol=1e-5)
    np.testing.assert_allclose(found.action, 3 * arrays["actions"], atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"states": np.zeros((40, 5))}, r"\(40, 5\)"),
        ({"rewards": np.zeros((40, 1))}, r"\(40, 1\)"),
        ({"actions": np.zeros((40, 6))}, r"\(40, 6\)"),
        ({"states": np.full((40, 4), np.nan)}, "not finite"),
        ({"terminals": np.array(["a"] * 40)}, "no numbers"),
    ],
)
def test_bad_transitions_are_named(tmp_path, changes, message):
    np.savez(tmp_path / "x.npz", **{**transition_arrays(), **changes})
    with pytest.raises(UserError, match=message):
        load_offline(tmp_path / "x.npz", reach_norm(), 4, 1.0, "can")


def test_rewards_of_gym_tasks_may_be_anything(tmp_path):
    arrays = transition_arrays() | {"rewards": np.linspace(-3, 40, 40)}
    np.savez(tmp_path / "x.npz", **arrays)
    found = load_offline(tmp_path / "x.npz", reach_norm(), 4, 0.0, "gym:Reach-v0")
    np.testing.assert_array_equal(
        found.transitions.reward, np.float32(arrays["rewards"])
    )
    with pytest.raises(UserError, match="holds rewards from -3 to 40"):
        load_offline(tmp_path / "x.npz", reach_norm(), 4, 0.0, "can")


def test_demonstrations_of_gym_tasks_do_not_say_what_followed(tmp_path):
    np.savez(tmp_path / "x.npz", states=np.zeros((4, 4)), traj_lengths=[4])
    with pytest.raises(UserError, match=r"do not say whether.*npz of transitions"):
        load_offline(tmp_path / "x.npz", reach_norm(), 4, 0.0, "gym:Reach-v0")


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return random_policy(tmp_path_factory.mktemp("policy") / "policy")


def config_of(policy, path, **changes):
    changes |= {"replay.offline_dataset": str(path), "replay.offline_share": 0.25}
    changes |= {"eval.episodes": 2, "eval.num_envs": 2}
    changes |= {"eval.noises": ("tanh_randn",)}
    changes |= {"first_rollout_env_steps": 2 * VECTOR_STEP}
    changes |= {"eval.every_env_steps": 100 * VECTOR_STEP}
    return tiny(policy, **changes)


def critic_loss(folder):
    return scalars(folder)["train/critic_loss"]


@pytest.mark.slow
def test_a_run_learns_from_them_and_resumes_bit_for_bit(policy, tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, **transition_arrays())
    short, long = 4 * VECTOR_STEP, 8 * VECTOR_STEP
    often = {"log.every_env_steps": VECTOR_STEP}
    whole = config_of(policy, path, total_env_steps=long, **often)
    train(whole, tmp_path / "whole", make_env=ReachEnv)
    part = config_of(policy, path, total_env_steps=short, **often)
    train(part, tmp_path / "part", make_env=ReachEnv)
    moved = path.rename(tmp_path / "moved.npz")
    again = config_of(policy, moved, total_env_steps=long, **often)
    train(again, tmp_path / "part", make_env=ReachEnv, resume=True)
    assert critic_loss(tmp_path / "part") == critic_loss(tmp_path / "whole")
    without = config_of(policy, "", total_env_steps=short, **often)
    train(without, tmp_path / "without", make_env=ReachEnv)
    first = [critic_loss(tmp_path / name)[0] for name in ("whole", "without")]
    assert first[0] != first[1]
    np.savez(path, **transition_arrays(41))
    other = config_of(policy, path, total_env_steps=2 * long, **often)
    with pytest.raises(UserError, match="began with other offline transitions"):
        train(other, tmp_path / "part", make_env=ReachEnv, resume=True)


def test_the_arrays_reach_the_buffer_and_other_ones_stop_a_resumed_run(
    policy, tmp_path
):
    path, arrays = tmp_path / "x.npz", transition_arrays()
    np.savez(path, **arrays)
    config, loaded = config_of(policy, path), load_policy(policy)
    with contextlib.ExitStack() as held:
        run = setup.open_run(
            config, tmp_path / "run", ReachEnv, False, lambda: False, held
        )
        setup.begin(run)
    replay, draw = run.replay.state, make_draw(run.job.config)
    np.testing.assert_array_equal(replay.offline.obs, np.float32(arrays["states"]))
    assert draw.num_offline == 4  # a quarter of 16
    found = replay_lib.sample(replay, jax.random.key(0), (8,), draw.window, 8).reward
    assert set(found.tolist()) <= set(np.float32(arrays["rewards"]).tolist())
    notes = {"offline_sha256": "0" * 64}
    with pytest.raises(UserError, match="began with other offline transitions"):
        setup._load_offline(config, loaded, Saved(0, notes))


def test_a_missing_file_is_named_before_the_run_begins(policy, tmp_path):
    with pytest.raises(UserError, match="no file '/nowhere"):
        train(config_of(policy, "/nowhere.npz"), tmp_path / "run", make_env=ReachEnv)
    assert not (tmp_path / "run").exists()
