"""Gymnasium's environments by chunks equal a plain loop over gymnasium's own."""

import sys

import gymnasium
import numpy as np
import pytest
from ml_collections import ConfigDict

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.normalize import Normalization, normalize_obs, unnormalize_action
from dynvgd_jax.envs import base
from dynvgd_jax.envs.gym import build
from dynvgd_jax.envs.gym.tasks import IDS, SIZES
from dynvgd_jax.envs.gym.vector import GymVectorEnv

ONLY = np.array([0])


def scale(obs_dim, action_dim):
    """Uneven, so that a swapped minimum and maximum would show."""
    return Normalization(
        np.linspace(-3, -1, obs_dim, dtype=np.float32),
        np.linspace(2, 5, obs_dim, dtype=np.float32),
        np.linspace(-0.9, -0.7, action_dim, dtype=np.float32),
        np.linspace(0.6, 0.8, action_dim, dtype=np.float32),
    )


def plain_episode(env_id, seed, raw_actions):
    """Observations, rewards and the end of an episode by gymnasium alone."""
    env = gymnasium.make(env_id)
    obs, _ = env.reset(seed=seed)
    found, rewards, end = [obs], [], ""
    for action in raw_actions:
        obs, reward, terminated, truncated, _ = env.step(action)
        found.append(obs)
        rewards.append(reward)
        if terminated or truncated:
            end = "terminated" if terminated else "truncated"
            break
    env.close()
    return np.array(found), np.array(rewards), end


def actions_of(task, size, seed):
    """`[250, 4, Da]`: small ones, so that some episodes last."""
    rng = np.random.default_rng(seed)
    return (0.3 * rng.normal(size=(250, 4, size))).clip(-1, 1).astype(np.float32)


@pytest.mark.parametrize("task", IDS)
def test_whole_episodes_equal_a_plain_loop(task):
    obs_dim, action_dim, _, limit = SIZES[task]
    norm = scale(obs_dim, action_dim)
    env = GymVectorEnv(task, 1, norm, num_threads=1)
    assert env.sizes == SIZES[task]
    chunks = actions_of(task, action_dim, 0)
    raw = unnormalize_action(norm, chunks).astype(np.float32).reshape(-1, action_dim)
    obs, rewards, end = plain_episode(IDS[task], 7, raw)
    np.testing.assert_array_equal(env.reset(ONLY, [7])[0], normalize_obs(norm, obs[0]))
    done = 0
    for chunk in chunks:
        result = env.step(ONLY, chunk[None])
        steps = int(result.steps[0])
        np.testing.assert_array_equal(
            result.reward[0, :steps], rewards[done : done + steps].astype(np.float32)
        )
        assert not result.reward[0, steps:].any() and not result.success.any()
        done += steps
        np.testing.assert_array_equal(result.obs[0], normalize_obs(norm, obs[done]))
        if result.terminated[0] or done == limit:
            break
        assert steps == 4
    assert done == len(rewards) and not result.fault[0]
    assert end == ("terminated" if result.terminated[0] else "truncated")
    # the cheetah cannot fall; the others do
    assert end == ("truncated" if task == "halfcheetah" else "terminated")
    after = env.step(ONLY, chunks[:1])
    if result.terminated[0]:  # nothing is executed any more
        assert after.steps[0] == 0 and after.terminated[0]
        np.testing.assert_array_equal(after.obs, result.obs)
    env.close()


def test_a_limit_within_a_chunk_ends_it():
    """Pendulum's 200 control steps are 66 chunks of 3, and 2 steps of the next."""
    env = GymVectorEnv("gym:Pendulum-v1", 1, None, num_threads=1)
    chunks = np.random.default_rng(0).uniform(-2, 2, (67, 3, 1)).astype(np.float32)
    obs, rewards, end = plain_episode("Pendulum-v1", 3, chunks.reshape(-1, 1))
    env.reset(ONLY, [3])
    results = [env.step(ONLY, chunk[None]) for chunk in chunks]
    assert [int(r.steps[0]) for r in results] == [3] * 66 + [2]
    assert end == "truncated" and not any(r.terminated[0] for r in results)
    found = np.concatenate([r.reward[0, : r.steps[0]] for r in results])
    np.testing.assert_array_equal(found, rewards.astype(np.float32))
    np.testing.assert_array_equal(results[-1].obs[0], obs[-1].astype(np.float32))
    assert env.step(ONLY, chunks[:1]).steps[0] == 3  # past the limit it goes on
    env.close()


@pytest.mark.parametrize("task", ["hopper", "gym:Ant-v5"])
def test_a_saved_state_goes_on_bit_for_bit(task):
    """Ant's contact forces and positions lag the joints: all of it comes back."""
    env = GymVectorEnv(task, 2, None, num_threads=2)
    both, size = np.arange(2), env.sizes.action_dim
    chunks = np.random.default_rng(1).uniform(-0.3, 0.3, (12, 2, 4, size))
    env.reset(both, [5, 6])
    for chunk in chunks[:3]:
        env.step(both, chunk)
    state = env.get_state()
    straight = [env.step(both, chunk) for chunk in chunks[3:]]
    other = GymVectorEnv(task, 2, None, num_threads=1)
    other.reset(both, [8, 9])
    other.step(both, chunks[5])
    other.set_state(state)
    again = [other.step(both, chunk) for chunk in chunks[3:]]
    for one, two in zip(straight, again, strict=True):
        for x, y in zip(one, two, strict=True):
            np.testing.assert_array_equal(x, y)
    assert sum(r.steps.sum() for r in straight) > 20
    for name, value in env.get_state().items():
        np.testing.assert_array_equal(value, other.get_state()[name])
    env.close()
    other.close()


def test_the_time_limit_is_saved_too():
    env = GymVectorEnv("gym:Pendulum-v1", 1, None, num_threads=1)
    env.reset(ONLY, [0])
    for _ in range(49):
        env.step(ONLY, np.zeros((1, 4, 1)))
    state = env.get_state()
    env.reset(ONLY, [1])
    env.set_state(state)
    assert env.step(ONLY, np.zeros((1, 6, 1))).steps[0] == 4
    env.close()


def test_another_end_is_told_in_the_log(caplog):
    env = GymVectorEnv("gym:Pendulum-v1", 1, None, num_threads=1)
    env.reset(ONLY, [0])
    state = env.get_state()
    state["raw_obs"] = state["raw_obs"] + 1e-9
    env.set_state(state)
    assert "does not come back to where it was saved" in caplog.text
    env.close()


def test_the_configuration_names_any_environment():
    config = ConfigDict({"task": "gym:Pendulum-v1", "env": {"num_threads": 1}})
    env = base.make_env(config, None, 2)
    assert env.num_envs == 2 and env.sizes == (3, 1, 4, 200)
    env.close()
    base.check_task("task", "gym:Pendulum-v1")
    with pytest.raises(UserError, match=r"config.task.*'hoper'"):
        base.check_task("task", "hoper")


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("gym:Hoper-v5", "gymnasium cannot make 'Hoper-v5'"),
        ("gym:CartPole-v1", "found the action space Discrete"),
        ("gym:Blackjack-v1", "found the observation space Tuple"),
    ],
)
def test_environments_that_do_not_fit_are_named(task, message):
    with pytest.raises(UserError, match=message) as caught:
        GymVectorEnv(task, 1, None)
    assert "\n" not in str(caught.value)


def test_a_scale_of_another_environment_is_refused():
    with pytest.raises(UserError, match=r"sizes .* \(17, 6\), task hopper needs"):
        GymVectorEnv("hopper", 1, scale(17, 6))


def test_without_gymnasium_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(UserError, match="run: pip install gymnasium imageio"):
        build.build_env("hopper")


def test_physics_that_breaks_is_a_fault():
    env = GymVectorEnv("hopper", 1, None, num_threads=1)
    env.reset(ONLY, [0])
    last = env.step(ONLY, np.zeros((1, 1, 3))).obs
    env._steppers[0].env.unwrapped.data.qvel[:] = 1e300
    for _ in range(2):
        broken = env.step(ONLY, np.zeros((1, 4, 3)))
        assert broken.fault[0] and not broken.reward.any()
        np.testing.assert_array_equal(broken.obs, last)
    env.reset(ONLY, [0])
    assert not env.step(ONLY, np.zeros((1, 1, 3))).fault[0]
    env.close()
