"""What runs in scripted environments leave behind, against numbers worked by hand.

Episodes, their successes and seeds, warm-ups in their units, the start noise of every
kind of decode, and which transitions each training call has drawn.
"""

import contextlib
import io

import numpy as np
import pytest

from dynvgd_jax import load_agent
from dynvgd_jax.audit.run import run_audit
from dynvgd_jax.training.loop import train
from tests.support import wiring
from tests.support.same_run import scalars
from tests.support.scripted import (
    FIRST_CHUNK,
    LAST_CHUNK,
    NEVER,
    ScriptedEnv,
    recording,
    reward_of,
)
from tests.support.wiring import VECTOR_STEP, wired

LIMIT = ScriptedEnv.limit
VECTOR_STEPS = 12


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return wiring.save_toy_policy(tmp_path_factory.mktemp("policy") / "policy")


@pytest.fixture(scope="module")
def glass(tmp_path_factory):
    """A policy whose chunk is its start noise, times 1.004, clipped to [-1, 1]."""
    folder = tmp_path_factory.mktemp("policy") / "policy"
    return wiring.save_toy_policy(folder, gain=0.0)


def quiet(run, *arguments, **options):
    with contextlib.redirect_stdout(io.StringIO()):
        return run(*arguments, **options)


# Episodes


class Long:
    """12 vector steps, 10 of them with a training call of 2 gradient steps."""

    def __init__(self, policy, folder, **changes):
        self.folder = folder
        self.config = wired(
            policy,
            **{
                "seed": 3,  # the same numbers for training, evaluation and audit
                "eval.seed": 3,
                "eval.episodes": 12,
                "total_env_steps": VECTOR_STEPS * VECTOR_STEP,
                "utd": 2,
                "guidance.warmup_updates": 8,
                "guidance.weight_warmup_env_steps": 6 * VECTOR_STEP,
            }
            | changes,
        )
        (self.training,), self.evaluation = quiet(wiring.run, self.config, folder)
        self.scalars = {name: dict(v) for name, v in scalars(folder).items()}


@pytest.fixture(scope="module")
def long_run(policy, tmp_path_factory):
    return Long(policy, tmp_path_factory.mktemp("long") / "run")


@pytest.fixture(scope="module")
def cut_run(policy, tmp_path_factory):
    """As `long_run`, whose training episodes end with their success."""
    folder = tmp_path_factory.mktemp("cut") / "run"
    return Long(policy, folder, end_at_success=True)


def episode(seed, chunks=LIMIT):
    """(success_any, success_chunk, return, length) after so many chunks, by hand."""
    kind = seed % 4
    first_only = chunks < LIMIT
    return (
        kind != NEVER,
        kind == FIRST_CHUNK or (kind == LAST_CHUNK and not first_only),
        float(np.sum(reward_of(seed, LIMIT)[:chunks].astype(np.float64) - 1.0)),
        4 * chunks,
    )


def test_every_evaluated_episode_is_counted_as_it_went(long_run):
    rows = wiring.rows(long_run.folder)
    expected = [episode(int(row["seed"])) for row in rows]
    found = [
        (row["success_any"] == "1", row["success_chunk"] == "1", int(row["length"]))
        for row in rows
    ]
    assert found == [(some, whole, length) for some, whole, _, length in expected]
    returns = [float(row["return"]) for row in rows]
    np.testing.assert_allclose(returns, [e[2] for e in expected], rtol=1e-5)
    # 12 episodes before training, 12 after it, of all four kinds
    some, whole, mean_return, length = np.mean(expected[:12], axis=0)
    assert 0.25 <= whole < some < 1.0
    for prefix, steps in (("eval_base/tanh_randn", 0), ("eval", VECTOR_STEPS)):
        logged = {
            name: long_run.scalars[f"{prefix}/{name}"][steps * VECTOR_STEP]
            for name in ("success_rate", "success_any_rate", "reward", "timesteps")
        }
        values = (whole, some, mean_return, length)
        np.testing.assert_allclose(list(logged.values()), values, rtol=1e-5)


@pytest.mark.parametrize("which", ["long_run", "cut_run"])
def test_every_training_episode_is_counted_as_it_went(request, which):
    run = request.getfixturevalue(which)
    cut = run.config.end_at_success
    ended, kinds = [], set()
    for index in range(wiring.NUM_ENVS):
        resets = [r for r in run.training.resets if r.index == index]
        begun = 0  # vector steps before the episode
        for reset in resets:
            assert reset.after == begun
            chunks = 1 if cut and reset.seed % 4 == FIRST_CHUNK else LIMIT
            begun += chunks
            if begun <= VECTOR_STEPS:
                ended.append(episode(reset.seed, chunks))
                kinds.add(reset.seed % 4)
        assert begun > VECTOR_STEPS
    assert kinds == {0, 1, 2, 3}
    _, whole, mean_return, length = np.mean(ended, axis=0)
    assert 0.25 <= whole <= 0.75
    last = VECTOR_STEPS * VECTOR_STEP
    names = ("train/success_rate", "train/ep_rew_mean", "train/ep_len_mean")
    logged = [run.scalars[name][last] for name in names]
    np.testing.assert_allclose(logged, (whole, mean_return, length), rtol=1e-5)


@pytest.mark.slow
def test_a_resumed_run_counts_successes_as_an_unbroken_one(cut_run, policy, tmp_path):
    """Broken off in the middle of episodes, some of which have succeeded."""
    config = cut_run.config.copy_and_resolve_references()
    config.checkpoint.every_env_steps = 5 * VECTOR_STEP
    make_env, made = recording()

    def stop():  # 12 steps evaluate the base policy, 7 more are training's
        return sum(len(env.played) for env in made) >= 12 + 7

    quiet(train, config.lock(), tmp_path / "run", make_env=make_env, stop=stop)
    assert load_agent(tmp_path / "run").env_steps == 7 * VECTOR_STEP
    quiet(train, config, tmp_path / "run", make_env=recording()[0], resume=True)
    found = {name: dict(v) for name, v in scalars(tmp_path / "run").items()}
    assert found == cut_run.scalars
    assert wiring.rows(tmp_path / "run") == wiring.rows(cut_run.folder)


def test_training_evaluation_and_audit_share_no_episode(long_run, tmp_path):
    make_env, made = recording()
    quiet(
        run_audit,
        long_run.folder,
        states=12,
        chunks=2,
        repeats=2,
        lengths=(0.1,),
        seed=3,
        output=str(tmp_path / "audit"),
        make_env=make_env,
    )
    kinds = [
        {reset.seed for env in envs for reset in env.resets}
        for envs in ([long_run.training], [long_run.evaluation], made)
    ]
    assert [len(seeds) for seeds in kinds] == [2 * (12 // LIMIT + 1), 12, 12]
    assert len(set.union(*kinds)) == sum(map(len, kinds))


# Warm-ups


def test_warm_ups_count_gradient_steps_and_control_steps(long_run):
    """lambda rises over 8 updates, which are 4 calls; w is 1 before vector step 6."""
    steps = np.arange(3, VECTOR_STEPS + 1)  # those with a training call
    at = {
        name: [long_run.scalars[f"guide/{name}"][n * VECTOR_STEP] for n in steps]
        for name in ("lambda_base", "weight_mean")
    }
    before = 2 * (steps - 3)  # updates before acting
    np.testing.assert_allclose(at["lambda_base"], 2.0 * np.minimum(before / 8, 1))
    acted_at = (steps - 1) * VECTOR_STEP  # control steps before acting
    weighted = np.array(at["weight_mean"]) < 1.0
    np.testing.assert_array_equal(weighted, acted_at >= 6 * VECTOR_STEP)
    updates = long_run.scalars["train/num_updates"]
    assert updates[VECTOR_STEPS * VECTOR_STEP] == 2 * 10


# Start noise


GLASS = {"ddim_steps": 1, "guidance.last_k": 0, "guidance.scale": 0.0}


class FourChunks(ScriptedEnv):
    limit = 4
    sizes = ScriptedEnv.sizes._replace(max_episode_env_steps=16)


def is_randn(actions):
    """Whether chunks of a `glass` policy came from randn, which is often beyond 1.

    A third of normal numbers are beyond 1 / 1.004; of their tanh 1 in 500 is.
    """
    share = np.mean(np.abs(actions) == 1.0)
    assert share < 0.03 or 0.2 < share < 0.45
    return share > 0.1


@pytest.mark.parametrize(
    ("acting", "exploring"),
    [("tanh_randn", ()), ("randn", ()), ("tanh_randn", ("randn",))],
)
def test_every_decode_starts_from_its_own_noise(acting, exploring, glass, tmp_path):
    config = wired(
        glass,
        **GLASS,
        **{
            "acting_noise": acting,
            "explore.noises": exploring,
            "explore.hold_chunks": (2,),
            "eval.noises": ("tanh_randn", "randn"),
            "first_rollout_env_steps": 4 * VECTOR_STEP,
            "total_env_steps": 12 * VECTOR_STEP,
        },
    )
    kind = FourChunks
    (training,), evaluation = quiet(wiring.run, config, tmp_path / "run", kind)
    acted = np.stack([step.actions for step in training.played])
    explored, steered = acted[:4], acted[4:]
    assert is_randn(steered) == (acting == "randn")
    assert is_randn(explored) == ("randn" in (exploring or (acting,)))
    # two chunks from the same noise, then two from another
    np.testing.assert_array_equal(explored[0::2], explored[1::2])
    assert not np.any(explored[0] == explored[2], where=np.abs(explored[0]) < 1)
    # when the critics act, every chunk has its own
    flat = np.array([chunk.ravel() for step in steered for chunk in step])
    assert len(np.unique(flat, axis=0)) == len(flat)
    last = config.total_env_steps
    played = wiring.episodes_played(tmp_path / "run", evaluation)
    assert {place: is_randn(chunks) for place, chunks in played.items()} == {
        (0, "base/tanh_randn"): False,
        (0, "base/randn"): True,
        (last, f"dynvgd/{acting}"): acting == "randn",
    }
    # critics that do not guide leave the base policy's chunks as they are
    same = played[0, f"base/{acting}"], played[last, f"dynvgd/{acting}"]
    np.testing.assert_allclose(*same, atol=1e-6)


def test_a_loaded_agent_acts_as_the_run_did(glass, tmp_path):
    """The evaluations before and after training begin from the same noise."""
    config = wired(glass, **GLASS | {"guidance.scale": 2.0})
    _, evaluation = quiet(wiring.run, config, tmp_path / "run")
    played = wiring.episodes_played(tmp_path / "run", evaluation)
    plain, steered = played.values()
    (seeds, _) = wiring.eval_seeds(tmp_path / "run").values()
    obs = [evaluation.obs_of(s, c) for s in seeds for c in range(LIMIT)]
    plain, steered = (x.reshape(-1, *x.shape[2:]) for x in (plain, steered))
    alpha = (np.cos(0.058 / 1.008 * np.pi / 2) / np.cos(0.008 / 1.008 * np.pi / 2)) ** 2
    noise = plain * np.sqrt(alpha)
    agent = load_agent(tmp_path / "run")
    found = agent.act(np.array(obs), noise)
    assert np.abs(steered - plain).max() > 0.05
    np.testing.assert_allclose(found, steered, atol=1e-5)


def test_the_golden_ticket_has_as_many_as_asked(glass, tmp_path):
    """Training takes them by turns for whole episodes, the evaluation one of them."""
    config = wired(
        glass,
        **GLASS,
        **{
            "method": "golden_ticket",
            "golden_ticket.num_tickets": 3,
            "first_rollout_env_steps": 0,
            "total_env_steps": 8 * VECTOR_STEP,
        },
    )
    (training,), evaluation = quiet(wiring.run, config, tmp_path / "run")
    acted = np.stack([step.actions.reshape(2, -1) for step in training.played])
    tickets, which = np.unique(acted.reshape(16, -1), axis=0, return_inverse=True)
    assert len(tickets) == 3
    by_episode = which.reshape(4, LIMIT, 2)  # two environments, four episodes each
    assert (by_episode == by_episode[:, :1]).all()
    taken = by_episode[:, 0].ravel()
    assert (taken[3:] == taken[:-3]).all()
    steered = list(wiring.episodes_played(tmp_path / "run", evaluation).values())[-1]
    played = np.unique(steered.reshape(-1, 8), axis=0)
    assert len(played) == 1 and (played == tickets).all(axis=1).any()
