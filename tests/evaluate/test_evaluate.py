"""An evaluation by itself finds what the run's own evaluation found, bit for bit."""

import csv
import json
import shutil

import pytest
from ml_collections import ConfigDict

import dynvgd_jax
from dynvgd_jax.core.types import EpisodeResult
from dynvgd_jax.envs import base as envs_base
from dynvgd_jax.evaluate import command, run
from dynvgd_jax.evaluate.run import Entry
from dynvgd_jax.runs.durable import remove_abandoned
from dynvgd_jax.runs.metrics import EPISODES_FILE
from tests.support.reach import ReachEnv


@pytest.fixture(autouse=True)
def toy_environments(monkeypatch):
    def make_env(config, normalization, num_envs):
        return ReachEnv(num_envs)

    monkeypatch.setattr(envs_base, "make_env", make_env)


def evaluate(*arguments):
    return command.main(["evaluate", *map(str, arguments)])


def rows(folder):
    with open(folder / EPISODES_FILE, newline="") as file:
        return list(csv.DictReader(file))


def own_rows(folder):
    """What the run wrote of its base policy and of its last evaluation."""
    last = rows(folder)[-1]["control_steps"]
    return [r for r in rows(folder) if r["control_steps"] in ("0", last)]


def test_repeats_the_runs_own_evaluations(finished_run, tmp_path, capsys):
    assert evaluate(finished_run, f"--output={tmp_path / 'out'}") == 0
    expected = own_rows(finished_run)
    assert {r["policy"] for r in expected} == {
        "base/tanh_randn",
        "base/randn",
        "dynvgd/tanh_randn",
    }
    assert rows(tmp_path / "out") == expected
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {EPISODES_FILE, "config.json", "versions.json"}
    text = capsys.readouterr().out
    assert "Success with 95 % intervals" in text
    assert "dynvgd/tanh_randn - base/tanh_randn: " in text
    assert "dynvgd/tanh_randn - base/randn: " in text
    assert f"wrote {tmp_path / 'out' / EPISODES_FILE}" in text
    films, knowledge = text.splitlines()[-2:]
    module, output = "python -m dynvgd_jax", f"--output={tmp_path / 'out-videos'}"
    assert films.split(": ", 1)[1].strip() == (
        f"{module}.evaluate {finished_run} --videos=6 {output}"
    )
    assert knowledge.endswith(f": {module}.audit {finished_run}")


def test_quiet_leaves_the_table(finished_run, tmp_path, capsys):
    sizes = ["--episodes=2", "--num_envs=2", "--config.eval.noises=tanh_randn"]
    assert evaluate(finished_run, *sizes, f"--output={tmp_path / 'q'}", "--quiet") == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "Success with 95 % intervals" in said.out
    assert said.out.splitlines()[-1] == f"wrote {tmp_path / 'q' / EPISODES_FILE}"


def test_other_episodes_checkpoints_and_fields(finished_run, tmp_path, capsys):
    run_folder = shutil.copytree(finished_run, tmp_path / "run")
    older = min((run_folder / "checkpoints").iterdir(), key=lambda p: int(p.name))
    sizes = ["--episodes", "2", "--seed=1", "--num_envs=1"]
    assert evaluate(older, *sizes, "--config.eval.noises=randn") == 0
    folder = run_folder / "evaluations" / f"{older.name}-seed1"  # the default
    config = json.loads((folder / "config.json").read_text())
    assert config["eval"] | {"episodes": 2, "seed": 1, "num_envs": 1} == config["eval"]
    found = rows(folder)
    assert [r["control_steps"] for r in found] == ["0"] * 2 + [older.name] * 2
    assert {r["policy"] for r in found} == {"base/randn", "dynvgd/tanh_randn"}
    played = {r["seed"] for r in found}
    assert len(played) == 2 and not played & {r["seed"] for r in rows(run_folder)}
    strong = [*sizes, "--config.guidance.scale=5", "--config.eval.noises=randn"]
    assert evaluate(older, *strong, "--num_threads=1") == 0
    # six digits tell changed fields apart, but for those of the evaluation
    [place] = (run_folder / "evaluations").glob(f"{older.name}-seed1-" + 6 * "[0-9a-f]")
    assert evaluate(older, *strong) == 2
    assert f"{place} exists already; give one that does not with --output" in (
        capsys.readouterr().err
    )
    changed = rows(place)
    assert changed[:2] == found[:2] and changed[2:] != found[2:]


def test_two_at_once_leave_each_other_alone(
    finished_run, tmp_path, monkeypatch, capsys
):
    sizes = ["--episodes=2", "--config.eval.noises=randn", f"--output={tmp_path / 'o'}"]

    def other_first(config, normalization, num_envs):
        monkeypatch.setattr(envs_base, "make_env", lambda c, norm, n: ReachEnv(n))
        assert evaluate(finished_run, *sizes) == 0
        return ReachEnv(num_envs)

    monkeypatch.setattr(envs_base, "make_env", other_first)
    assert evaluate(finished_run, *sizes) == 2
    [kept] = tmp_path.glob(".o.*")
    assert f"the files are in {kept}; give --output" in capsys.readouterr().err
    assert rows(kept) == rows(tmp_path / "o") and len(rows(kept)) == 4


def test_what_a_killed_evaluation_left_is_deleted_by_the_same_one(
    finished_run, tmp_path, monkeypatch, capsys
):
    sizes = ["--episodes=2", "--config.eval.noises=randn"]
    left = {name: tmp_path / f"..{name}.0123abcd.partial" for name in ("o", "other")}
    for folder in left.values():
        folder.mkdir()
    assert evaluate(finished_run, *sizes, f"--output={tmp_path / 'o'}") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"o", left["other"].name}

    def deleted(config, normalization, num_envs):  # one that goes on is left alone
        (partial,) = tmp_path.glob("..p.*.partial")
        remove_abandoned(tmp_path, "..p.*.partial")
        assert partial.is_dir()
        return ReachEnv(num_envs)

    monkeypatch.setattr(envs_base, "make_env", deleted)
    assert evaluate(finished_run, *sizes, f"--output={tmp_path / 'p'}") == 0


def test_a_policy_alone(finished_run, tmp_path, monkeypatch, capsys):
    """A converted policy, or a packaged one, has nothing that steers it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished_run / "policy", tmp_path / "mine")
    sizes = ["--episodes=3", "--num_envs=3", "--config.ddim_steps=2"]
    assert evaluate("mine", *sizes) == 0
    base = [r for r in rows(finished_run) if r["policy"].startswith("base/")]
    [place] = (tmp_path / "runs").iterdir()
    assert place.name.startswith("evaluation-mine-seed0-") and rows(place) == base
    assert " - base/" not in capsys.readouterr().out


def test_gain_by_hand(capsys):
    def episodes(*success):
        return [EpisodeResult(i, s, s, -1.0, 4, False) for i, s in enumerate(success)]

    names = ("base/randn", 0), ("dynvgd/randn", 64)
    entries = [Entry(*name, None) for name in names]
    # episode by episode 1, 0, 1, 1: 0.75; and 1 everywhere has no interval
    found = {
        "base/randn": episodes(False, True, False, False),
        "dynvgd/randn": episodes(True, True, True, True),
    }
    config = ConfigDict({"task": "can", "reward_offset": 1.0})
    run._print_table(entries, found, config)
    assert "dynvgd/randn - base/randn: 0.750 [" in capsys.readouterr().out
    found["base/randn"] = episodes(*[False] * 4)
    run._print_table(entries, found, config)
    assert "dynvgd/randn - base/randn: 1.000 success" in capsys.readouterr().out
    # of returns, the offset of each control step given back: 5 longer, 5 more
    found["base/randn"] = [r._replace(length=9) for r in found["dynvgd/randn"]]
    config.task = "hopper"
    run._print_table(entries, found, config)
    assert "dynvgd/randn - base/randn: -5.000 return, paired" in capsys.readouterr().out


def test_what_was_played_is_lost_neither_by_its_table_nor_by_a_full_disk(
    finished_run, tmp_path, monkeypatch, capsys
):
    def fail(error):
        def call(*arguments):
            raise error

        return call

    sizes = ["--episodes=2", "--config.eval.noises=randn"]
    monkeypatch.setattr(run, "episodes_text", fail(MemoryError()))
    assert evaluate(finished_run, *sizes, f"--output={tmp_path / 'out'}") == 2
    assert len(rows(tmp_path / "out")) == 4
    monkeypatch.undo()
    monkeypatch.setattr(envs_base, "make_env", lambda config, norm, n: ReachEnv(n))
    monkeypatch.setattr(run, "write_versions", fail(OSError(28, "No space left")))
    capsys.readouterr()
    assert evaluate(finished_run, *sizes, f"--output={tmp_path / 'full'}") == 2
    captured = capsys.readouterr()
    assert "dynvgd/tanh_randn - base/randn: " in captured.out
    assert "No space left" in captured.err and not (tmp_path / "full").exists()


MISTAKES = [
    ([], "found nothing, expected first a run folder"),
    (["--episodes=3"], "found --episodes=3, expected first a run folder"),
    (["{none}"], "is no run folder: there is no such folder"),
    ([__file__], "is a file, expected a run folder; convert_torch_ckpt.py makes"),
    (["builtin:cann"], "found no built-in policy 'cann', expected one of can,"),
    (["{empty}"], "found no checkpoint in"),
    (["{pretrained}"], "is no training run; give the policy in it: "),
    (["{run}", "--episodes=0"], "config.eval.episodes: found 0, expected a number"),
    (["{run}", "--seed=x"], "config.eval.seed: found 'x', expected int"),
    (["{run}", "--episode=3"], "Unknown command line flag 'episode'"),
    (["{run}", "{run}"], "expected only --flag=value arguments"),
    (["{run}", "--config.guidance.scal=1"], "the nearest is config.guidance.scale"),
    (["{run}", "--config.task=lift"], "found a base policy for task 'can', expected"),
    (["{run}/policy", "--config.task=lift"], "for task 'can', expected one for 'lift'"),
    (["{run}", "--config.critic.width=3"], "critic"),
    (["{run}", "--output="], "--output: found nothing"),
    (["{run}", "--output={run}"], "exists already; give one that does not"),
    (["{run}", "--output={run}/config.json/x"], "cannot write"),
    (["builtin:can"], "found a base policy for task 'can' with (obs_dim"),
]


@pytest.mark.parametrize("arguments, expected", MISTAKES)
def test_mistakes_are_one_line(finished_run, tmp_path, capsys, arguments, expected):
    places = {"run": finished_run, "none": tmp_path / "none"}
    for name in ("empty", "pretrained"):
        places[name] = tmp_path / name
        places[name].mkdir()
        shutil.copy(finished_run / "config.json", places[name])
    shutil.copytree(finished_run / "policy", tmp_path / "pretrained/policy")
    config = json.loads((finished_run / "config.json").read_text())
    content = json.dumps(config | {"job": "pretrain"})
    (tmp_path / "pretrained/config.json").write_text(content)
    before = sorted(finished_run.rglob("*"))

    assert evaluate(*[argument.format(**places) for argument in arguments]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("dynvgd_jax.evaluate: ") and expected in line
    assert captured.out == ""
    assert sorted(finished_run.rglob("*")) == before


def test_help_and_version(capsys):
    assert evaluate("--help") == 0
    assert "--num_threads" in capsys.readouterr().out
    assert evaluate("--version") == 0
    assert capsys.readouterr().out == f"dynvgd_jax {dynvgd_jax.__version__}\n"
