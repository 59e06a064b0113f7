"""VGD saves: critics and moments come over, go on learning here, and come back."""

import dataclasses
import io
import json
import shutil
import zipfile

import jax
import numpy as np
import pytest
import torch

import convert_torch_ckpt
from configs import can_ddim8
from dynvgd_jax import load_agent
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import set_fields
from dynvgd_jax.core.normalize import Normalization, save_normalization
from dynvgd_jax.core.types import Transition
from dynvgd_jax.diffusion.diffusion_mlp import BASE
from dynvgd_jax.envs.rollout import TRAIN_STREAM, episode_seed
from dynvgd_jax.runs.checkpoint import CheckpointStore
from dynvgd_jax.steering.critics import td
from dynvgd_jax.steering.critics.kinds import make_critic
from dynvgd_jax.steering.noise import start_noise
from dynvgd_jax.torch_weights import run as run_lib
from dynvgd_jax.training.loop import train
from dynvgd_jax.training.state import ACT_KEY
from tests.support import torch_reference as ref
from tests.support.reach import ReachEnv
from tests.support.same_run import arrays
from tests.support.tiny_run import VECTOR_STEP, tiny

SIZES = ref.SMALL
NUM, WIDTH, DEPTH = 3, 16, 2
INPUTS = SIZES.obs + SIZES.chunk * SIZES.act


class CanSizedEnv(ReachEnv):
    """The plane's task in Can's sizes: what it does not know stays 0."""

    sizes = ReachEnv.sizes._replace(obs_dim=SIZES.obs, action_dim=SIZES.act)

    def _obs(self, indices):
        seen = super()._obs(indices)
        return np.pad(seen, ((0, 0), (0, self.sizes.obs_dim - seen.shape[1])))

    def step(self, indices, actions):
        return super().step(indices, actions[..., :2])


def run(*arguments):
    return convert_torch_ckpt.main(["convert_torch_ckpt.py", *map(str, arguments)])


def random_batch(seed, rows=8):
    rng = np.random.default_rng(seed)
    shapes = ((rows, SIZES.obs), (rows, INPUTS - SIZES.obs), (rows,))
    obs, action, reward = (rng.uniform(-1, 1, s).astype(np.float32) for s in shapes)
    done = rng.random(rows) < 0.3
    discount = np.float32(can_ddim8.get_config().gamma) * np.float32(~done)
    return Transition(obs, action, reward, obs[::-1].copy(), discount, done)


def trained(steps=3):
    """Critics, targets and Adam after some steps of VGD in torch."""
    critics, targets = (ref.make_critics(NUM, INPUTS, WIDTH, DEPTH, s) for s in (0, 1))
    optimizer = torch.optim.Adam(critics.parameters(), lr=5e-4)
    for seed in range(steps):
        torch_step(critics, targets, optimizer, random_batch(seed))
    return critics, targets, optimizer


def torch_step(critics, targets, optimizer, batch):
    rows = [torch.from_numpy(part) for part in (*batch[:4], batch.discount)]
    config = can_ddim8.get_config()
    return ref.td_step(critics, targets, optimizer, rows, rows[1], config)


def state_of(critics, targets):
    state = {f"critic.{k}": v for k, v in critics.state_dict().items()}
    state |= {f"critic_target.{k}": v for k, v in targets.state_dict().items()}
    return state | {"actor.log_std.weight": torch.ones(2)}


def save(path, state, optimizer=None):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", "{}")
        archive.writestr("policy.pth", ref.to_bytes(state))
        if optimizer is not None:
            archive.writestr("critic.optimizer.pth", ref.to_bytes(optimizer))
    return path


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A fine-tuned policy of Can's sizes, converted."""
    folder = tmp_path_factory.mktemp("policy")
    bounds = [np.ones(n, np.float32) for n in (SIZES.obs, SIZES.act)]
    norm = Normalization(-bounds[0], bounds[0], -bounds[1], bounds[1])
    save_normalization(folder / "normalization.npz", norm)
    model = {}
    for seed, prefix in enumerate(("actor", "actor_ft")):
        net = ref.make_net(SIZES, seed=seed)
        model |= {f"{prefix}.{k}": v for k, v in net.state_dict().items()}
    torch.save({"itr": 1, "model": model}, folder / "s.pt")
    said = ("--task=can", "--num_train_timesteps=20", "--ft_denoising_steps=1")
    assert run(f"--policy={folder}/s.pt", *said, f"--output={folder}/out") == 0
    return folder / "out"


def arguments(path, policy, output):
    config = "--config=configs/can_ddim8.py"
    base = f"--config.base_policy={policy}"
    return f"--critic={path}", config, base, f"--output={output}"


@pytest.fixture(scope="module")
def converted(policy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("critics")
    critics, targets, optimizer = trained()
    save(folder / "vgd.zip", state_of(critics, targets), optimizer.state_dict())
    assert run(*arguments(folder / "vgd.zip", policy, folder / "run")) == 0
    return folder, critics, targets, optimizer


def test_an_agent_of_the_same_values_with_its_origin(converted):
    folder, critics, targets, _ = converted
    agent = load_agent(folder / "run")
    assert agent.env_steps == 0 and int(agent.learner.num_updates) == 3
    sizes = agent.config.critic
    assert (sizes.num, sizes.width, sizes.depth) == (NUM, WIDTH, DEPTH)
    batch = random_batch(5)
    state = agent.learner.critic
    for params, module in ((state.params, critics), (state.target_params, targets)):
        ensemble = agent_ensemble(agent)
        found = ensemble.apply(params, batch.obs, batch.action)
        with torch.no_grad():
            expected = module(*map(torch.from_numpy, batch[:2]))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    source = json.loads((folder / "run" / "source.json").read_text())
    assert source["converted_from"] == "vgd.zip" and len(source["sha256"]) == 64
    assert source["not_used"] == {"actor": 1} and source["versions"]["torch"]
    noise = np.random.default_rng(0).normal(size=(2, SIZES.chunk, SIZES.act))
    assert np.isfinite(agent.act(batch.obs[:2], noise, td_error=7.0)).all()


def agent_ensemble(agent):
    from dynvgd_jax.steering.critics.mlp import CriticEnsemble

    sizes = agent.config.critic
    return CriticEnsemble(sizes.num, sizes.width, sizes.depth)


def test_learning_goes_on_as_in_torch(converted):
    """The next steps after the conversion need the moments to be right."""
    folder = converted[0]
    critics, targets, optimizer = trained()
    agent = load_agent(folder / "run")
    ensemble, adam = agent_ensemble(agent), td.make_optimizer(5e-4)
    critic = make_critic(agent.config, SIZES.obs, INPUTS - SIZES.obs)
    state, tau = agent.learner.critic, agent.config.target_tau

    @jax.jit
    def step(state, batch):
        y = td.next_target(critic, state.target_params, batch, batch.action)
        return td.gradient_step(critic, adam, state, batch, y, tau)

    for seed in (20, 21):
        batch = random_batch(seed)
        state, _ = step(state, batch)
        torch_step(critics, targets, optimizer, batch)
    from dynvgd_jax.torch_weights.critics import from_flax

    found = from_flax(ensemble, state.params)
    for name, value in critics.state_dict().items():
        np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)


def test_round_trip_is_bit_identical(converted):
    folder, critics, targets, optimizer = converted
    assert run(f"--to_torch={folder}/run", f"--output={folder}/back.zip") == 0
    with zipfile.ZipFile(folder / "back.zip") as archive:
        parts = {name: io.BytesIO(archive.read(name)) for name in archive.namelist()}
    back = torch.load(parts["policy.pth"], weights_only=True)
    expected = state_of(critics, targets)
    del expected["actor.log_std.weight"]
    assert back.keys() == expected.keys()
    assert all(torch.equal(back[name], value) for name, value in expected.items())
    moments = torch.load(parts["critic.optimizer.pth"], weights_only=True)
    for i, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            assert torch.equal(moments["state"][i][name], value), (i, name)
    torch.optim.Adam(critics.parameters()).load_state_dict(moments)


def test_without_moments_and_another_learning_rate_a_note_says_so(
    policy, tmp_path, capsys
):
    critics, targets, optimizer = trained(1)
    path = save(tmp_path / "a.zip", state_of(critics, targets))
    assert run(*arguments(path, policy, tmp_path / "a")) == 0
    assert "begin at 0" in capsys.readouterr().err
    assert int(load_agent(tmp_path / "a").learner.num_updates) == 0
    path = save(tmp_path / "b.zip", state_of(critics, targets), optimizer.state_dict())
    learning_rate = "--config.learning_rate=0.001"
    assert run(*arguments(path, policy, tmp_path / "b"), learning_rate) == 0
    assert "0.0005, the configuration says 0.001" in capsys.readouterr().err


def continuing(policy, folder, **changes):
    """The configuration of a run that starts from converted critics."""
    sizes = {"critic.num": NUM, "critic.width": WIDTH, "critic.depth": DEPTH}
    once = {"eval.episodes": 2, "eval.num_envs": 2, "eval.noises": ("tanh_randn",)}
    return tiny(
        policy,
        **sizes,
        **once,
        **{
            "initial_critics": str(folder),
            "first_rollout_env_steps": 2 * VECTOR_STEP,
            "total_env_steps": 5 * VECTOR_STEP,
            "eval.every_env_steps": 100 * VECTOR_STEP,
            "learning_rate": 0.0,  # the critics stay what they were
            **changes,
        },
    )


@pytest.mark.slow
def test_a_run_starts_from_converted_critics_and_a_fine_tuned_policy(
    policy, converted, tmp_path
):
    config = continuing(policy, converted[0] / "run")
    train(config, tmp_path / "run", make_env=CanSizedEnv)
    agent, before = load_agent(tmp_path / "run"), load_agent(converted[0] / "run")
    assert int(agent.learner.num_updates) == 3 + 3 * config.utd
    params = (agent.learner.critic.params, before.learner.critic.params)
    jax.tree.map(np.testing.assert_array_equal, *params)
    # The first chunks of the run are the fine-tuned policy's, whose last of two steps
    # is another network's than the base's.
    assert agent.policy.ft_denoising_steps == 1
    stored = arrays(tmp_path / "run", agent.env_steps)
    obs, found = stored["obs"][:2], stored["action"][:2]
    seeds = [episode_seed(TRAIN_STREAM, config.seed, i) for i in range(2)]
    noise = start_noise(
        "tanh_randn",
        jax.random.fold_in(jax.random.key(config.seed), ACT_KEY),
        np.array(seeds, np.uint32),
        np.zeros(2, np.int32),
        (SIZES.chunk, SIZES.act),
    )
    expected = agent.policy.sample(obs, noise, ddim_steps=2).reshape(2, -1)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    base = dataclasses.replace(
        agent.policy, params=agent.policy.params[BASE], ft_denoising_steps=0
    )
    assert np.abs(base.sample(obs, noise, 2).reshape(2, -1) - found).max() > 1e-3


@pytest.mark.slow
def test_a_resumed_run_does_not_read_the_initial_critics_again(
    policy, converted, tmp_path
):
    folder = shutil.copytree(converted[0] / "run", tmp_path / "gone")
    config = continuing(policy, folder)
    train(config, tmp_path / "run", make_env=CanSizedEnv)
    shutil.rmtree(folder)
    more = continuing(policy, folder, total_env_steps=6 * VECTOR_STEP)
    train(more, tmp_path / "run", make_env=CanSizedEnv, resume=True)
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    assert store.latest() == 6 * VECTOR_STEP


def test_critics_that_do_not_fit_a_run_are_refused_before_it_begins(
    policy, converted, tmp_path
):
    for folder, message in ((converted[0] / "run", "does not fit"), ("/x", "no run")):
        config = tiny(policy, **{"initial_critics": str(folder), "critic.num": 2})
        with pytest.raises(UserError, match=message):
            train(config, tmp_path / "run", make_env=CanSizedEnv)
    assert not (tmp_path / "run").exists()


def changed_state(change):
    critics, targets, _ = trained(0)
    state = state_of(critics, targets)
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda s: s.pop("critic.qf1.3.bias"), "missing: qf1.3.bias"),
        (lambda s: s.update({"critic_target.y": torch.ones(1)}), "left over: y"),
        (lambda s: s["critic.qf0.0.weight"].fill_(np.inf), "not finite"),
        (
            lambda s: s.update({"critic.qf2.4.weight": torch.ones(3)}),
            "qf2.4.weight has",
        ),
        (lambda s: [s.pop(k) for k in list(s) if "target" in k], "critic_target.*"),
        (lambda s: [s.pop(k) for k in list(s) if ".0." in k], "holds no critics"),
        (
            lambda s: s.update(
                {"critic.qf0.0.weight": torch.ones(1, 1).expand(10**6, 10**6)}
            ),
            "more than is stored",
        ),
    ],
)
def test_bad_critics_give_one_line_and_no_output(
    policy, tmp_path, capsys, change, word
):
    path = save(tmp_path / "vgd.zip", changed_state(change))
    assert run(*arguments(path, policy, tmp_path / "run")) == 2
    line = capsys.readouterr().err
    assert word in line and line.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["vgd.zip"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda o: o["state"].pop(3), "KeyError(3)"),
        (lambda o: o["param_groups"][0].update(amsgrad=True), "'amsgrad': True"),
        (lambda o: o["state"][1].update(step=torch.tensor(2.0)), "[2.0, 3.0] steps"),
        (lambda o: o["state"][0].update(exp_avg=torch.ones(3)), "has shape [3]"),
        (lambda o: o["state"][1]["exp_avg_sq"].neg_(), "holds values below 0"),
        (lambda o: o["param_groups"][0].update(lr=np.nan), "found learning rate nan"),
        (lambda o: o["param_groups"][0].update(lr=-1.0), "found learning rate -1.0"),
        (lambda o: o["state"].update({99: o["state"][0]}), "of 31 tensors"),
    ],
)
def test_bad_moments_give_one_line(policy, tmp_path, capsys, change, word):
    critics, targets, optimizer = trained()
    content = optimizer.state_dict()
    change(content)
    path = save(tmp_path / "vgd.zip", state_of(critics, targets), content)
    assert run(*arguments(path, policy, tmp_path / "run")) == 2
    line = capsys.readouterr().err
    assert word in line and line.count("\n") == 1


def test_critics_of_another_kind_have_no_counterpart(
    converted, policy, tmp_path, monkeypatch
):
    folder = converted[0]
    words = "found config.critic.kind = 'quantile', expected 'mean'"
    config = set_fields(can_ddim8.get_config(), {"critic.kind": "quantile"})
    config.base_policy = str(policy)
    with pytest.raises(UserError, match=words):
        run_lib.convert_critics(folder / "vgd.zip", tmp_path / "run", config)
    agent = dataclasses.replace(load_agent(folder / "run"), config=config)
    monkeypatch.setattr(run_lib, "load_agent", lambda folder: agent)
    with pytest.raises(UserError, match=words):
        run_lib.write_critics(folder / "run", tmp_path / "critics.zip")
    assert list(tmp_path.iterdir()) == []


def test_critics_of_another_policy_are_named(tmp_path, capsys, policy):
    critics = ref.make_critics(2, INPUTS + 4, WIDTH, DEPTH)
    path = save(tmp_path / "vgd.zip", state_of(critics, critics))
    assert run(*arguments(path, policy, tmp_path / "run")) == 2
    line = capsys.readouterr().err
    assert "take 55 inputs, expected 51" in line and line.count("\n") == 1
