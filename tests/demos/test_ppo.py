"""The agent that demonstrates: its loss against PyTorch, its bookkeeping by hand."""

import itertools

import numpy as np
import pytest
import torch
from ml_collections import ConfigDict

from configs import hopper_agent, hopper_demos
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.demos import gym_demos, ppo
from dynvgd_jax.demos.dataset import load_dataset
from dynvgd_jax.demos.gym_agent import Agent, Layer, load_agent, save_agent
from dynvgd_jax.demos.gym_play import play
from dynvgd_jax.envs.gym.vector import GymVectorEnv


def layers(rng, *sizes):
    return tuple(
        Layer(rng.normal(size=(a, b)) / a**0.5, rng.normal(size=b))
        for a, b in itertools.pairwise(sizes)
    )


def make_agent(obs_dim=11, action_dim=3, seed=0):
    rng = np.random.default_rng(seed)
    scale = (rng.normal(size=obs_dim), rng.uniform(0.5, 2, obs_dim))
    bounds = (np.full(action_dim, -1.0), np.full(action_dim, 1.0))
    actor = layers(rng, obs_dim, 8, 8, action_dim)
    return Agent(actor, np.full(action_dim, -1.0), *scale, *bounds)


def test_advantages_by_hand():
    # gamma lambda = 0.5; the episode of the second environment ends at t = 1.
    delta = np.array([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]])
    over = np.array([[False, False], [False, True], [False, False]])
    found = ppo.advantages(delta, over, 1.0, 0.5)
    # 2 + 0.5 * 4 = 4, 1 + 0.5 * 4 = 3; without what follows 2, 1 + 0.5 * 2 = 2
    np.testing.assert_array_equal(found, [[3, 2], [4, 2], [4, 4]])


def test_running_moments_are_those_of_all_rows():
    rows = np.random.default_rng(0).normal(3, 2, (700, 4))
    running = ppo.Running((4,))
    for part in np.array_split(rows, 9):
        running.add(part)
    np.testing.assert_allclose(running.mean, rows.mean(0), atol=1e-5)
    np.testing.assert_allclose(running.std, rows.std(0), atol=1e-5)


def torch_loss(weights, batch, clip):
    """The surrogate written with torch's own distribution."""
    as_torch = lambda array: torch.tensor(np.asarray(array, np.float64))  # noqa: E731

    def net(parts, x):
        for i, (kernel, bias) in enumerate(parts):
            x = x @ kernel + bias
            x = torch.tanh(x) if i < len(parts) - 1 else x
        return x

    obs, unit, old, advantage, returns = map(as_torch, batch)
    std = weights.log_std.exp()
    normal = torch.distributions.Normal(net(weights.policy, obs), std)
    ratio = (normal.log_prob(unit).sum(1) - old).exp()
    advantage = (advantage - advantage.mean()) / advantage.std(unbiased=False)
    kept = torch.where(
        advantage > 0,
        ratio.clamp(max=1 + clip) * advantage,
        ratio.clamp(min=1 - clip) * advantage,
    )
    value = net(weights.value, obs)[:, 0]
    return 0.5 * ((value - returns) ** 2).mean() - kept.mean()


def test_loss_and_gradient_agree_with_torch():
    import jax

    rng = np.random.default_rng(1)
    weights = ppo.Weights(
        layers(rng, 5, 7, 2), layers(rng, 5, 7, 1), rng.normal(size=2) * 0.3
    )
    obs, unit = rng.normal(size=(32, 5)), rng.normal(size=(32, 2))
    # old probabilities far enough from the new ones that both clips bind
    mean = rng.normal(size=(32, 2)) * 0.3
    old = ppo.gaussian_log_prob(unit, mean, weights.log_std)
    normal = torch.distributions.Normal(
        torch.tensor(mean), torch.tensor(weights.log_std).exp()
    )
    np.testing.assert_allclose(old, normal.log_prob(torch.tensor(unit)).sum(1).numpy())
    batch = ppo.Batch(obs, unit, old, rng.normal(size=32), rng.normal(size=32))
    ours = ppo.Weights(*jax.tree.map(np.float32, tuple(weights)))
    loss, grads = jax.value_and_grad(ppo.ppo_loss)(
        ours, ppo.Batch(*map(np.float32, batch)), 0.2
    )
    as_torch = lambda a: torch.tensor(np.float64(a), requires_grad=True)  # noqa: E731
    theirs = jax.tree.map(as_torch, weights)
    expected = torch_loss(theirs, batch, 0.2)
    expected.backward()
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    for own, other in zip(jax.tree.leaves(grads), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(own, other.grad.numpy(), atol=2e-5)


def test_an_agent_comes_back_from_its_file(tmp_path):
    agent = make_agent()
    save_agent(tmp_path / "1.npz", agent)
    obs, draw = np.ones((2, 11)), np.ones((2, 3))
    found = load_agent(tmp_path / "1.npz").act(obs, draw)
    np.testing.assert_allclose(found, agent.act(obs, draw), atol=1e-5)
    assert np.abs(agent.act(obs, draw) - agent.act(obs, 0 * draw)).max() > 0.1
    with pytest.raises(UserError, match="found no agent at"):
        load_agent(tmp_path / "2.npz")
    np.savez(tmp_path / "2.npz", obs_mean=np.ones(3))
    with pytest.raises(UserError, match="holds no agent"):
        load_agent(tmp_path / "2.npz")


def test_episodes_do_not_depend_on_how_many_run_at_once():
    agent, found = make_agent(), []
    for num_envs in (1, 3):
        env = GymVectorEnv("hopper", num_envs, None, num_threads=1)
        found.append(play(env, agent, [4, 5, 6, 7], "x"))
        env.close()
    for one, three in zip(*found, strict=True):
        for x, y in zip(one[:4], three[:4], strict=True):
            np.testing.assert_array_equal(x, y)
        assert (one.seed, one.operator) == (three.seed, "x")
        assert 1 < len(one.actions) < 1000 and np.abs(one.actions).max() <= 1


def test_a_training_writes_agents_at_their_returns(tmp_path):
    config = hopper_agent.get_config().unlock()
    config.task, config.returns = "gym:Pendulum-v1", (-1e9, -1e8)
    config.horizon, config.epochs, config.width = 32, 1, 8
    config.eval.episodes, config.eval.every_env_steps = 2, 256
    reached = ppo.train_agent(config, tmp_path / "one")
    assert len(reached) == 2 and all(r < 0 for r in reached)
    one = load_agent(tmp_path / "one/agent1.npz")
    assert one.obs_mean.shape == (3,) and one.action_high == 2
    config.returns, config.total_env_steps = (1e9,), 512
    with pytest.raises(UserError, match=r"expected .*1000000000"):
        ppo.train_agent(config, tmp_path / "two")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"horizon": 4, "num_envs": 8, "batch_size": 64}, "at most horizon x num_envs"),
        ({"returns": ("x",)}, "config.returns"),
        ({"returns": (float("nan"),)}, "config.returns"),
    ],
)
def test_what_cannot_work_is_said_at_once(tmp_path, changes, words):
    config = hopper_agent.get_config().unlock()
    config.update(changes)
    with pytest.raises(UserError, match=words):
        ppo.train_agent(config, tmp_path / "one")
    assert not (tmp_path / "one").exists()


def test_robosuites_tasks_have_other_experts(tmp_path):
    config = hopper_agent.get_config().unlock()
    config.task = "can"
    with pytest.raises(UserError, match=r"found 'can', expected a task of"):
        ppo.train_agent(config, tmp_path / "one")


def demos_config(tmp_path, **changes):
    config = hopper_demos.get_config().unlock()
    config.agents, config.num_episodes = str(tmp_path), 6
    del config.operators
    config.operators = ConfigDict({"agent1": 0.5, "agent2": 0.5})
    config.update_from_flattened_dict(changes)
    return config


def test_demonstrations_become_a_data_set(tmp_path, capsys):
    for i in (1, 2):
        save_agent(tmp_path / f"agent{i}.npz", make_agent(seed=i))
    gym_demos.run(demos_config(tmp_path), tmp_path / "data")
    assert "normalised score" in capsys.readouterr().out
    data = load_dataset(tmp_path / "data/train.npz", "hopper")
    assert len(data.lengths) == 6 and data.obs.shape[1] == 11
    assert -1.0001 <= data.obs.min() and data.obs.max() <= 1.0001
    assert data.env_args["env_name"] == "Hopper-v5"
    with pytest.raises(UserError, match="found environment 'Hopper', expected 'Walker"):
        load_dataset(tmp_path / "data/train.npz", "walker2d")
    with pytest.raises(UserError, match=r"another environment.*\(11, 3\)"):
        gym_demos.run(demos_config(tmp_path, task="walker2d"), tmp_path / "other")
