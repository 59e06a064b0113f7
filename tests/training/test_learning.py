"""The whole loop learns: from poor demonstrations to a better steered policy.

On an analytic task (`tests/support/reach.py`) a base policy is pre-trained on an
operator who takes a wrong turn more often than not. Over five seeds, side by side in
one program, Dynamic VGD raises the return by a stated margin; with the gradient's sign
flipped it does not; likewise DSRL's actors. The mean return per episode lies between
-32 (always far) and about -5 (straight to the goal); the margin of 1.5 is about three
times the standard error of one evaluation.
"""

import jax
import numpy as np
import pytest

from configs import base, can_pretrain
from dynvgd_jax.agent import load_agent
from dynvgd_jax.core.normalize import Normalization, save_normalization
from dynvgd_jax.runs.metrics import EPISODES_FILE
from dynvgd_jax.steering.sac import Sac
from dynvgd_jax.training.loop import train
from dynvgd_jax.training.pretrain import pretrain
from tests.conftest import polished
from tests.support.reach import STEP, ReachEnv, poor_demonstrations

pytestmark = pytest.mark.usefixtures("polished_updates")

LEVER_SEEDS = 3
SCALE = 0.1
MARGIN = 1.5
NUM_ENVS, CHUNK = 16, ReachEnv.sizes.chunk_len
VECTOR_STEP = NUM_ENVS * CHUNK


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("learning")


def rewards(obs, actions):
    """Of each control step, from where its action leads; see tests/support/reach.py."""
    reached = np.clip(obs[:, :2] + STEP * actions, -1, 1)
    distance = np.linalg.norm(reached - obs[:, 2:], axis=1)
    return np.maximum(1 - distance, 0).astype(np.float32)


def save_transitions(path, obs, actions, lengths):
    """Every chunk that does not end its episode, as transitions for the buffer."""
    ends = np.repeat(np.cumsum(lengths), lengths)
    starts = np.arange(len(obs))
    starts = starts[starts + CHUNK < ends]
    steps = starts[:, None] + np.arange(CHUNK)
    np.savez(
        path,
        states=obs[starts],
        states_next=obs[starts + CHUNK],
        actions=actions[steps],
        rewards=(rewards(obs, actions)[steps] - 1.0).sum(axis=1),
        terminals=np.zeros(len(starts), bool),
    )


@pytest.fixture(scope="module")
def base_policy(folder):
    obs, actions, lengths = poor_demonstrations(num_episodes=200, seed=1)
    np.savez(
        folder / "train.npz",
        states=obs,
        actions=actions,
        rewards=rewards(obs, actions),
        terminals=np.zeros(len(obs), bool),
        traj_lengths=lengths,
    )
    unit = Normalization(
        *(sign * np.ones(n, np.float32) for n in (4, 2) for sign in (-1, 1))
    )
    save_normalization(folder / "normalization.npz", unit)
    save_transitions(folder / "offline.npz", obs, actions, lengths)
    config = can_pretrain.get_config()
    with config.unlocked():
        config.dataset = str(folder / "train.npz")
        config.network.hidden_dims = (64, 64, 64)
        config.num_steps, config.warmup_steps = 3000, 100
        config.ema_start_step = 1000
        config.learning_rate = 2e-3
        config.eval.episodes = 0
        config.eval.every_steps = 3000
        config.log.every_steps = 1000
    with polished(True):
        pretrain(config, folder / "pretrain")
    return folder / "pretrain" / "policy"


def run_config(base_policy, seed, scale, **changes):
    config = base.get_config()
    config.base_policy = str(base_policy)
    config.ddim_steps, config.guidance.last_k = 4, 2
    config.guidance.scale = scale
    config.seed, config.num_envs = seed, NUM_ENVS
    config.first_rollout_env_steps = 20 * VECTOR_STEP
    config.total_env_steps = 160 * VECTOR_STEP
    config.utd, config.batch_size = 8, 64
    config.gamma, config.learning_rate = 0.9, 1e-3
    config.critic.width, config.critic.depth = 64, 2
    config.eval.noises = ("tanh_randn",)
    config.eval.episodes = config.eval.num_envs = 100
    config.eval.every_env_steps = config.checkpoint.every_env_steps = 10**9
    config.log.every_env_steps = 40 * VECTOR_STEP
    config.update_from_flattened_dict(changes)
    return config.lock()


def gains(folder, base_policy, name, scale, seeds=5, **changes):
    """Gain in mean return, steered after training over base before, one per seed."""
    config = run_config(base_policy, 0, scale, num_seeds=seeds, **changes)
    summaries = train(config, folder / name, make_env=ReachEnv)
    found = []
    for before, after in summaries.values():
        assert before.policy == "base/tanh_randn"
        assert after.policy == f"{config.method}/tanh_randn"
        found.append(after.mean_return - before.mean_return)
    assert len(found) == seeds
    return np.array(found)


@pytest.mark.slow
def test_dynamic_vgd_improves_a_poor_policy(folder, base_policy):
    gain = gains(folder, base_policy, "up", SCALE)
    assert gain.mean() > MARGIN, gain
    assert (gain > 0).all(), gain


@pytest.mark.slow
def test_flipped_gradient_does_not(folder, base_policy):
    gain = gains(folder, base_policy, "down", -SCALE)
    assert gain.mean() < 0, gain


# Networks of the critics' size; a bonus for the actor's entropy of a fraction of a
# chunk's reward from the start, and returns of 4 chunks, as there are few updates.
DSRL = {
    "dsrl.actor_width": 64,
    "dsrl.actor_depth": 2,
    "dsrl.initial_entropy_coef": 0.02,
    "critic.num": 2,
    "target_n_step": 4,
    "utd": 16,
}


def dsrl_gains(folder, base_policy, name, method, **changes):
    return gains(folder, base_policy, name, 0.0, method=method, **DSRL | changes)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dsrl_na", "dsrl_sac"])
def test_dsrl_improves_a_poor_policy(folder, base_policy, method):
    gain = dsrl_gains(folder, base_policy, method, method)
    assert gain.mean() > MARGIN, gain
    assert (gain > 0).all(), gain


@pytest.mark.slow
def test_an_actor_of_flipped_sign_does_not(folder, base_policy, monkeypatch):
    combine = Sac.combine
    monkeypatch.setattr(Sac, "combine", lambda self, q: -combine(self, q))
    gain = dsrl_gains(folder, base_policy, "dsrl_down", "dsrl_na")
    assert gain.mean() < 0, gain


LEVERS = {
    "n_step": {"target_n_step": 4},
    "host": {"target_n_step": 4, "replay.memory": "host", "overlap": True},
    "past_limit": {"target_n_step": 4, "bootstrap_at_time_limit": True},
    "to_success": {"end_at_success": True},
    "blur": {"critic.action_noise": 0.2},
    "initial_value": {"critic.initial_value": -5.0},
    "held": {"explore.noises": ("randn",), "explore.hold_chunks": (1, 8)},
    "candidates": {"guidance.scale": 0.0, "guidance.candidates": 4},
    "max": {
        "guidance.scale": 0.0,
        "guidance.candidates": 4,
        "target_backup": "max",
        "target_proposals": 2,
        "target_reduce": "random_pair",
        "bootstrap_at_time_limit": True,
        "target_n_step": 3,
    },
    "mean": {
        "guidance.candidates": 4,
        "target_backup": "mean",
        "proposals.noises": ("tanh_randn", "randn"),
        "proposals.dtype": "float16",
        "replay.offline_dataset": "offline.npz",
    },
    "early": {
        "guidance.last_k": 0,
        "guidance.first_k": 2,
        "guidance.point": "estimate",
        "guidance.time_anneal": "off",
    },
    "target_critics": {"guidance.critics": "target", "target_tau": 0.02},
    "reduce": {
        "guidance.reduce": "mean",
        "target_reduce": "mean",
        "critic.groups": 2,
    },
    "offline": {"replay.offline_dataset": "offline.npz", "replay.offline_share": 0.5},
}


@pytest.fixture(scope="module")
def published(folder, base_policy):
    """The episodes of a run in which no lever is moved."""
    gains(folder, base_policy, "published", SCALE, LEVER_SEEDS)
    return (folder / "published" / "seed0" / EPISODES_FILE).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", list(LEVERS))
def test_every_lever_learns_too(folder, base_policy, published, name):
    """With a lever moved away from the published setting the policy still improves.

    And otherwise: a lever that reaches nothing would leave the same episodes behind.
    """
    changes = {"guidance.scale": SCALE} | LEVERS[name]
    if file := changes.get("replay.offline_dataset"):
        changes["replay.offline_dataset"] = str(folder / file)
    gain = gains(folder, base_policy, name, SCALE, LEVER_SEEDS, **changes)
    episodes = (folder / name / "seed0" / EPISODES_FILE).read_bytes()
    assert episodes != published
    assert gain.mean() > MARGIN, gain
    assert (gain > 0).all(), gain


@pytest.mark.slow
def test_same_seed_same_bits_and_agent_reloads(folder, base_policy):
    """Equal configurations write equal files, byte for byte."""
    config = run_config(base_policy, 0, SCALE)
    for name in ("first", "second"):
        train(config, folder / name, make_env=ReachEnv)
    first, second = (
        (folder / n / "eval.csv").read_bytes() for n in ("first", "second")
    )
    assert first == second and first.count(b"\n") == 201
    agents = [load_agent(folder / name) for name in ("first", "second")]
    jax.tree.map(np.testing.assert_array_equal, agents[0].learner, agents[1].learner)
    assert agents[0].env_steps == config.total_env_steps

    rng = np.random.default_rng(0)
    obs = rng.uniform(-1, 1, (3, 4)).astype(np.float32)
    noise = rng.normal(size=(3, CHUNK, 2)).astype(np.float32)
    own = agents[0].act(obs, noise)
    explicit = agents[0].act(obs, noise, td_error=float(agents[0].learner.td_error))
    np.testing.assert_array_equal(own, explicit)
    unguided = load_agent(folder / "first", {"guidance.scale": 0.0})
    plain = unguided.policy.sample(obs, noise, ddim_steps=4)
    np.testing.assert_array_equal(unguided.act(obs, noise), plain)
    assert np.abs(own - plain).max() > 1e-3
