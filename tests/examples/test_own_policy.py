"""The example of an own network: trained, steered and loaded as its page prints."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynvgd_jax import launch, load_agent, load_policy
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.normalize import Normalization, save_normalization
from dynvgd_jax.diffusion.kinds import KINDS
from dynvgd_jax.diffusion.network import bind
from dynvgd_jax.envs import base as envs_base
from examples import own_policy
from tests.support.command import ROOT
from tests.support.reach import ReachEnv, poor_demonstrations
from tests.support.tiny_run import VECTOR_STEP, tiny

CONFIG = f"--config={ROOT}/examples/own_policy.py"
KIND = KINDS[own_policy.NAME]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs the page's first two commands, with a toy in place of Square."""
    folder = tmp_path_factory.mktemp("own")
    obs, actions, lengths = poor_demonstrations(20, seed=0)
    file = folder / "train.npz"
    np.savez(file, states=obs, actions=actions, traj_lengths=lengths)
    ones = [np.ones(n, np.float32) for n in (4, 2)]
    limits = Normalization(-ones[0], ones[0], -ones[1], ones[1])
    save_normalization(folder / "normalization.npz", limits)
    short = [
        f"--config.dataset={file}",
        "--config.num_steps=30",
        "--config.eval.episodes=0",
        "--config.network.width=8",
        "--config.network.depth=1",
        "--config.network.heads=2",
        f"--workdir={folder}/pretrain",
    ]
    quick = [
        f"--config.{name}={value}"
        for name, value in {
            "base_policy": folder / "pretrain/policy",
            "guidance.candidates": 4,
            "target_proposals": 2,
            "guidance.scale": 0.05,
            "guidance.last_k": 1,
            "ddim_steps": 2,
            "first_rollout_env_steps": 10 * VECTOR_STEP,
            "total_env_steps": 16 * VECTOR_STEP,
            "num_envs": 2,
            "utd": 2,
            "batch_size": 16,
            "critic.num": 2,
            "critic.width": 16,
            "critic.depth": 1,
            "eval.episodes": 3,
            "eval.num_envs": 3,
            "eval.every_env_steps": 16 * VECTOR_STEP,
            "checkpoint.every_env_steps": 16 * VECTOR_STEP,
            "log.every_env_steps": 4 * VECTOR_STEP,
        }.items()
    ]
    quick += [f"--workdir={folder}/steered"]
    with pytest.MonkeyPatch.context() as patch:
        make = lambda config, normalization, num_envs: ReachEnv(num_envs)  # noqa: E731
        patch.setattr(envs_base, "make_env", make)
        assert launch.main(["launch.py", f"{CONFIG}:pretrain", *short]) == 0
        assert launch.main(["launch.py", f"{CONFIG}:quick", *quick]) == 0
    return folder


def test_guides_what_it_has_trained(trained):
    policy = load_policy(trained / "pretrain/policy")
    agent = load_agent(trained / "steered")
    assert policy.kind == own_policy.NAME and policy.network.width == 8
    assert "place" in policy.params and agent.config.method == "dynvgd"
    assert agent.env_steps == 16 * VECTOR_STEP
    rng = np.random.default_rng(0)
    obs, noise = rng.uniform(-1, 1, (5, 4)), rng.normal(size=(5, 4, 2))
    steered, plain = agent.act(obs, noise), policy.sample(obs, noise, 2)
    assert steered.shape == (5, 4, 2) and np.abs(steered - plain).max() > 1e-3
    unguided = load_agent(trained / "steered", {"guidance.scale": 0.0})
    np.testing.assert_allclose(unguided.act(obs, noise), plain, atol=2e-6)


def test_its_decision_can_be_exported(trained, tmp_path):
    controller = load_agent(trained / "steered").controller(3)
    controller.export(tmp_path / "own.npz")
    assert (tmp_path / "own.npz").stat().st_size > 1000


def test_the_last_command_starts_others_with_the_kind_known(trained, monkeypatch):
    ran = []
    run = lambda name, **options: ran.append((name, sys.argv, options))  # noqa: E731
    monkeypatch.setattr("runpy.run_module", run)
    path = own_policy.__file__
    monkeypatch.setattr(sys, "argv", [path, "dynvgd_jax.evaluate", "runs/x"])
    main = {"__name__": "__main__", "__file__": path}
    exec(compile(Path(path).read_text(), path, "exec"), main)
    ((name, argv, options),) = ran
    assert (name, argv) == ("dynvgd_jax.evaluate", ["dynvgd_jax.evaluate", "runs/x"])
    assert options["run_name"] == "__main__"


def test_without_the_file_the_kind_is_unknown_in_one_line(trained, monkeypatch):
    monkeypatch.delitem(KINDS, own_policy.NAME)
    with pytest.raises(UserError, match=r"kind 'flow_transformer', .*own_policy\.md"):
        load_policy(trained / "pretrain/policy")


def test_a_run_meant_for_another_kind_refuses_it(trained, toy_policy, tmp_path):
    from dynvgd_jax.training.loop import train

    for policy, kind in (
        (trained / "pretrain/policy", "diffusion_mlp"),
        (toy_policy, "flow_mlp"),
    ):
        config = tiny(policy, policy_kind=kind)
        with pytest.raises(UserError, match=f"expected '{kind}'; set base_policy"):
            train(config, tmp_path / "run", make_env=ReachEnv)
    assert not (tmp_path / "run").exists()


def test_each_action_sees_every_other_and_the_time():
    """A transformer by its derivatives; the time may be one for all rows or each's."""
    described = dict(obs_dim=3, action_dim=2, chunk_len=4, width=8, depth=1, heads=2)
    spec = KIND.read({"network": described})
    assert KIND.describe(spec) == {"network": described}
    params = KIND.init(spec, jax.random.key(0))
    net = bind(spec.network, params)
    rng = np.random.default_rng(0)
    x, obs = (
        jnp.float32(rng.normal(size=(2, 4, 2))),
        jnp.float32(rng.normal(size=(2, 3))),
    )
    jacobian = jax.jacobian(lambda x: net(x, jnp.float32(0.5), obs))(x)
    size = np.abs(jacobian).max((2, 5))  # [B, Ta, B, Ta]
    assert size[0, :, 0].min() > 1e-4 and size[0, :, 1].max() == 0
    same = net(x, jnp.full(2, 0.5), obs)
    np.testing.assert_allclose(net(x, jnp.float32(0.5), obs), same, atol=1e-6)
    assert np.abs(net(x, jnp.float32(0.9), obs) - same).max() > 1e-3
    for wrong in ({"heads": 3}, {"width": 0}, {"depth": "2"}, {"more": 1}):
        with pytest.raises(ValueError, match="expected"):
            KIND.read({"network": described | wrong})
