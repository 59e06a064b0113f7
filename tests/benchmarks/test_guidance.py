"""The comparison of guidance settings evaluates exactly what a run evaluated."""

import csv
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from benchmarks import guidance
from dynvgd_jax import load_agent
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.runs.metrics import EPISODES_FILE
from dynvgd_jax.runs.report import mean_text, success_text
from tests.support.reach import ReachEnv


def compare(*arguments):
    def make_env(agent, num_envs):
        return ReachEnv(num_envs)

    return guidance.main(list(map(str, arguments)), make_env)


def test_as_trained_repeats_the_last_evaluation(finished_run, toy_config, capsys):
    with open(finished_run / EPISODES_FILE, newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["policy"].startswith("dynvgd/")]
    last = [r for r in rows if r["control_steps"] == rows[-1]["control_steps"]]
    expected = [r["success_chunk"] == "1" for r in last]
    episodes = toy_config.eval.episodes
    assert len(expected) == episodes

    variant = ["--variant", "guidance.scale=0", "guidance.candidates=2"]
    sizes = [f"--episodes={episodes}", f"--num_envs={toy_config.eval.num_envs}"]
    found = compare(finished_run, finished_run, *variant, *sizes)
    label = "guidance.scale=0 guidance.candidates=2"
    assert list(found) == ["as trained", label]
    for wins in found["as trained"]:
        np.testing.assert_array_equal(wins, expected)
    output = capsys.readouterr().out
    assert "candidate_gain" in output
    # two runs: the interval is that of the results of several seeds
    wins = [sum(won) / episodes for won in found["as trained"]]
    assert f"as trained {mean_text(wins)}\n" in output
    compare(finished_run, *sizes)
    one, output = success_text(sum(expected), episodes), capsys.readouterr().out
    assert f"as trained {one}\n" in output
    # other episodes, other scalars
    seed = toy_config.eval.seed
    for given in (seed, seed + 1):
        compare(finished_run, *sizes, f"--seed={given}")
        assert (capsys.readouterr().out == output) == (given == seed)


def test_the_base_policy_does_not_choose(finished_run, toy_config):
    """It is what the run evaluated first, however many candidates there are."""
    with open(finished_run / EPISODES_FILE, newline="") as file:
        name = f"base/{toy_config.acting_noise}"
        rows = [r for r in csv.DictReader(file) if r["policy"] == name]
    sizes = [f"--episodes={len(rows)}", f"--num_envs={toy_config.eval.num_envs}"]
    variant = ["--variant", "method=base", "guidance.candidates=4"]
    found = compare(finished_run, *variant, *sizes)
    (wins,) = found["method=base guidance.candidates=4"]
    np.testing.assert_array_equal(wins, [r["success_chunk"] == "1" for r in rows])


def test_critics_together_may_have_learned_in_groups(finished_run):
    agents = [
        load_agent(finished_run, {"critic.groups": groups}) for groups in (1, 2, 1)
    ]
    both = guidance.together(agents)
    num = agents[0].config.critic.num
    assert (both.config.critic.num, both.config.critic.groups) == (3 * num, 1)


def test_critics_together_are_one_ensemble(finished_run, toy_config):
    """They value a chunk as they did, and a run beside itself acts as it does alone."""
    run = load_agent(finished_run)
    rng = np.random.default_rng(0)

    def other_critics(name):
        tree = getattr(run.learner.critic, name)
        noise = lambda leaf: leaf + rng.normal(size=leaf.shape).astype(np.float32)  # noqa: E731
        return jax.tree.map(noise, tree)

    critic = run.learner.critic._replace(
        params=other_critics("params"), target_params=other_critics("target_params")
    )
    error = run.learner.td_error + np.float32(2)
    learner = run.learner._replace(critic=critic, td_error=error)
    other = dataclasses.replace(run, learner=learner)
    both = guidance.together([run, other])
    obs = rng.uniform(-1, 1, (5, run.policy.obs_dim)).astype(np.float32)
    chunk = rng.normal(size=(5, run.policy.chunk_len, run.policy.action_dim))
    each, found = (
        [a.method.value(a.learner, obs, chunk) for a in agents]
        for agents in ((run, other), (both,))
    )
    q = np.concatenate([value.members for value in each])
    np.testing.assert_allclose(found[0].members, q, rtol=1e-5, atol=1e-5)
    combined = np.min(q, axis=0)  # `guidance.reduce`, of all
    np.testing.assert_allclose(found[0].combined, combined, rtol=1e-5, atol=1e-5)
    assert np.abs(each[0].members - each[1].members).max() > 0.1
    assert both.learner.td_error == pytest.approx(run.learner.td_error + 1)

    sizes = [f"--episodes={toy_config.eval.episodes}", "--num_envs=2"]
    alone = compare(finished_run, *sizes)["as trained"]
    newest = finished_run / "checkpoints" / str(run.env_steps)
    (beside,) = compare(newest, finished_run, "--together", *sizes)["as trained"]
    np.testing.assert_array_equal(beside, alone[0])


def test_critics_that_do_not_fit_together(finished_run):
    run = load_agent(finished_run)
    wide = ConfigDict(run.config.to_dict())
    wide.critic.width += 1
    with pytest.raises(UserError, match="critics of several kinds or sizes"):
        guidance.together([run, dataclasses.replace(run, config=wide)])
    with pytest.raises(
        UserError, match="found method 'dynvgd', expected one that learns"
    ):
        guidance.together([run, dataclasses.replace(run, learner=None)])


def test_mistakes_are_named(finished_run):
    with pytest.raises(UserError, match="found 'scale', expected field=value"):
        compare(finished_run, "--variant", "scale")
    with pytest.raises(UserError, match=r"guidance\.scal: no such field"):
        compare(finished_run, "--variant", "guidance.scal=0")
    with pytest.raises(UserError, match=r"found eval\.seed, .* expected --seed in its"):
        compare(finished_run, "--variant", "eval.seed=2")
    with pytest.raises(UserError, match="--episodes: found 0, expected 1 up"):
        compare(finished_run, "--episodes=0")


def test_runs_of_several_tasks_are_refused(finished_run, tmp_path):
    other = shutil.copytree(finished_run, tmp_path / "other")
    content = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(content | {"task": "square"}))
    with pytest.raises(UserError, match="other: square; expected runs of one task"):
        compare(finished_run, other)
