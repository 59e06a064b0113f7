"""The audit of a saved run from the command line's words to its files."""

import csv
import dataclasses
import errno
import json
import shutil

import jax
import numpy as np
import pytest

import dynvgd_jax
from dynvgd_jax import load_agent
from dynvgd_jax.audit import command, run
from dynvgd_jax.audit.subject import make_subject
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.output import is_quiet
from dynvgd_jax.steering.critics.mlp import CriticEnsemble
from dynvgd_jax.steering.methods import build_method
from dynvgd_jax.steering.noise import start_noise
from tests.steering import reference
from tests.support.reach import ReachEnv

pytestmark = pytest.mark.slow

SIZES = {"states": 3, "chunks": 2, "repeats": 2, "lengths": (0.1, 0.3), "num_envs": 5}


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def audited(finished_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    found = [
        run.run_audit(
            finished_run, **SIZES, output=str(folder / name), make_env=ReachEnv
        )
        for name in ("first", "second")
    ]
    return folder, found[0]


def test_files_hold_every_number(audited, finished_run):
    folder, found = audited
    content = json.loads((folder / "first" / "audit.json").read_text())
    assert content["about"]["plan"]["lengths"] == [0.1, 0.3]
    assert content["about"]["versions"]["jax"] == jax.__version__
    agent = load_agent(finished_run)
    assert content["about"]["control_steps"] == agent.env_steps
    assert content["found"]["q_mean"] == found["q_mean"]
    states, chunks = (
        rows(folder / "first/states.csv"),
        rows(folder / "first/first_chunks.csv"),
    )
    rollouts = rows(folder / "first/rollouts.csv")
    assert (len(states), len(chunks), len(rollouts)) == (3, 3 * 2 * 6, 3 * 2 * 6 * 2)
    plain = [float(r["return"]) for r in rollouts if r["kind"] == "plain"]
    np.testing.assert_allclose(np.mean(plain), found["true_return_mean"], rtol=1e-12)
    assert (folder / "first" / "audit.png").read_bytes()[:4] == b"\x89PNG"
    # The chunks in the file have the values beside them.
    obs = [
        [float(states[int(c["state"])][f"obs{i}"]) for i in range(4)] for c in chunks
    ]
    action = [[float(c[f"action{i}"]) for i in range(8)] for c in chunks]
    config = agent.config.critic
    ensemble = CriticEnsemble(config.num, config.width, config.depth)
    q = ensemble.apply(agent.learner.critic.params, np.float32(obs), np.float32(action))
    for i in range(config.num):
        np.testing.assert_allclose(q[i], [float(c[f"q{i}"]) for c in chunks], atol=1e-5)


def test_equal_seeds_write_equal_bytes(audited):
    folder, _ = audited
    for name in ("states.csv", "first_chunks.csv", "rollouts.csv", "audit.json"):
        first, second = ((folder / n / name).read_bytes() for n in ("first", "second"))
        assert first == second


@pytest.mark.parametrize("guiding", ["current", "target"])
def test_subject_decodes_and_judges_as_the_run_does(finished_run, guiding):
    agent = load_agent(finished_run, {"guidance.critics": guiding})
    subject = make_subject(agent, "randn", seed=5)
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(3, 4)).astype(np.float32)
    ids, index = np.uint32([1, 2, 3]), np.int32([0, 4, 4])
    noise = subject.noise(2, ids, index)
    key = jax.random.fold_in(jax.random.key(5), 2)
    np.testing.assert_array_equal(noise, start_noise("randn", key, ids, index, (4, 2)))
    np.testing.assert_array_equal(
        subject.decode(obs, noise), agent.policy.sample(obs, noise, 2)
    )
    np.testing.assert_array_equal(subject.steer(obs, noise), agent.act(obs, noise))
    chunk = rng.uniform(-1, 1, (3, 4, 2)).astype(np.float32)
    judged = subject.judge(obs, chunk)
    critic = agent.learner.critic
    params = critic.params if guiding == "current" else critic.target_params
    critics = reference.unstack(params)
    flat = np.float64(chunk.reshape(3, 8))
    gradient, q = reference.value_gradient(critics, np.float64(obs), flat, "min")
    np.testing.assert_allclose(judged.q, q, atol=1e-5)
    np.testing.assert_allclose(judged.value, q.min(0), atol=1e-5)
    np.testing.assert_allclose(judged.gradient.reshape(3, 8), gradient, atol=1e-5)
    td_error = float(agent.learner.td_error)
    w = np.exp(-q.std(axis=0, ddof=1) / 5 - td_error / 100)
    np.testing.assert_allclose(judged.weight, w, rtol=1e-5)


def test_refusals(finished_run, toy_config, tmp_path):
    taken = tmp_path / "taken"
    taken.mkdir()
    with pytest.raises(UserError, match="exists already"):
        run.run_audit(finished_run, **SIZES, output=str(taken), make_env=ReachEnv)
    agent = load_agent(finished_run)
    untrained = agent.learner._replace(num_updates=np.int32(0))
    with pytest.raises(UserError, match="never been trained"):
        make_subject(
            type(agent)(agent.config, agent.policy, agent.method, untrained, 0),
            "randn",
            0,
        )
    with agent.config.unlocked():
        agent.config.method, agent.config.first_rollout_env_steps = "golden_ticket", 0
    tickets = build_method(agent.config, agent.policy)
    with pytest.raises(UserError, match="'golden_ticket' has no critics"):
        make_subject(dataclasses.replace(agent, method=tickets), "randn", 0)
    with pytest.raises(UserError, match=r"\(4, 2\), task can needs \(23, 7\)"):
        # robosuite's environments
        run.run_audit(finished_run, **SIZES, output=str(tmp_path / "new"))
    square = shutil.copytree(finished_run, tmp_path / "square")
    content = json.loads((square / "config.json").read_text())
    (square / "config.json").write_text(json.dumps(content | {"task": "square"}))
    with pytest.raises(UserError, match="task 'can', expected one for 'square'"):
        run.run_audit(square, **SIZES, output=str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    unplaced = str(tmp_path / "file" / "audit")
    with pytest.raises(UserError, match=r"cannot write .* --output"):  # before playing
        run.run_audit(finished_run, **SIZES, output=unplaced, make_env=pytest.fail)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["found none", "run folder"]),
        (["a", "b"], ["found a b"]),
        (["a", "--states=1"], ["states", "[2, 100000]"]),
        (["a", "--repeats=x"], ["repeats"]),
        (["a", "--lengths=0.1,zero"], ["zero"]),
        (["a", "--lengths=0"], ["--lengths", "above 0"]),
        (["a", "--lengths=1,1.0"], ["each number once"]),
        (["a", "--noise=tanh"], ["tanh_randn"]),
        (["a", "--stats=3"], ["Unknown", "states"]),
        (["no_such_run"], ["no_such_run is no run folder"]),
        (["~no_such_user/run"], ["no home folder of that name"]),
        (["a", "--output="], ["--output: found nothing"]),
    ],
)
def test_mistakes_give_one_line_and_code_2(capsys, arguments, words):
    assert command.main(["audit", *arguments]) == 2
    line = capsys.readouterr().err
    assert line.startswith("dynvgd_jax.audit: ") and line.count("\n") == 1
    for word in words:
        assert word in line


def test_words_of_the_command_line_reach_the_audit(monkeypatch, capsys, tmp_path):
    seen = []
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(run, "run_audit", lambda *a, **o: seen.append((a, o)))
    arguments = ["--states=9", "--lengths=0.5,1", "--noise=randn", "--policy=base"]
    assert command.main(["audit", "some/run", *arguments]) == 0
    (((folder,), options),) = seen
    assert str(folder) == "some/run" and options["lengths"] == (0.5, 1.0)
    assert options["states"] == 9 and options["chunks"] == 4
    assert options["noise"] == "randn" and options["policy"] == "base"
    assert options["output"] is None and options["seed"] == 0
    assert command.main(["audit", "~/run", "--output=~/found"]) == 0
    (folder,), options = seen[-1]
    assert (folder, options["output"]) == (tmp_path / "run", tmp_path / "found")
    heard = []
    monkeypatch.setattr(run, "run_audit", lambda *a, **o: heard.append(is_quiet()))
    assert command.main(["audit", "some/run", "--quiet"]) == 0
    assert command.main(["audit", "some/run"]) == 0
    assert heard == [True, False]
    assert command.main(["audit", "--version"]) == 0
    assert capsys.readouterr().out == f"dynvgd_jax {dynvgd_jax.__version__}\n"
    assert command.main(["audit", "--help"]) == 0
    text = capsys.readouterr().out
    assert "docs/audit.md" in text and "--repeats" in text and "--noise" in text


def test_a_disk_that_is_full_by_the_end_leaves_the_tables(
    finished_run, tmp_path, monkeypatch, capsys
):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run, "write_files", full)
    output = str(tmp_path / "audit")
    with pytest.raises(UserError, match=r"cannot write .*No space left.*--output"):
        run.run_audit(finished_run, **SIZES, output=output, make_env=ReachEnv)
    assert "What the critics know" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
