"""Several processes of one run share its work, and end together."""

import csv
import errno
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dynvgd_jax import launch
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.training import processes
from dynvgd_jax.training.resume import find_saved
from tests.support import command
from tests.support.cluster import finish, run, start
from tests.support.same_run import arrays, notes_of
from tests.support.tiny_run import VECTOR_STEP, random_policy


def test_one_process_needs_no_other():
    assert processes.count() == 1 and processes.is_first()
    assert processes.gather_objects({"a": [1.5]}) == [{"a": [1.5]}]
    tree = {"x": np.arange(3)}
    assert processes.concatenate(tree) is tree
    assert processes.any_of(True) and not processes.any_of(False)
    assert processes.by_first(lambda: 7) == 7
    assert processes.own_share(8) == slice(0, 8)

    def fails():
        raise UserError("found x")

    with pytest.raises(UserError, match="found x"):
        processes.by_first(fails)


@pytest.fixture
def two(monkeypatch):
    """Runs a function of the process's number in two threads, as two processes.

    Returns what each returned, or the error that it raised.
    """
    own, sent, meet = threading.local(), [None, None], threading.Barrier(2, timeout=60)

    def all_gather(array):
        sent[own.index] = np.asarray(array)
        meet.wait()
        found = np.stack(sent)
        meet.wait()
        return found

    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "index", lambda: own.index)
    monkeypatch.setattr(processes, "_all_gather", all_gather)

    def play(function):
        def one(index):
            own.index = index
            try:
                return function(index)
            except (UserError, OSError) as error:
                return error

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(one, range(2)))

    return play


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("error", [UserError("x"), OSError(errno.EIO, "x")])
def test_what_one_process_cannot_do_none_goes_on_from(two, failing, error):
    def act(index):
        if index == failing:
            raise error
        return index

    found = two(lambda index: processes.by_all(lambda: act(index)))
    assert [type(e) for e in found] == [UserError] * 2
    assert {str(e) for e in found} == {str(error)}
    assert two(lambda index: processes.by_all(lambda: index)) == [0, 1]
    first = two(lambda index: processes.by_first(lambda: act(index)))
    if failing == 0:
        assert {str(e) for e in first} == {str(error)}
    else:
        assert first == [0, None]


def test_all_processes_find_the_checkpoint_that_they_resume_from(
    two, toy_config, finished_run, tmp_path, caplog
):
    """As `setup.open_run` looks for it; process 1 sees other files, or other flags."""
    broken = shutil.copytree(finished_run, tmp_path / "run")
    damaged = max((broken / "checkpoints").iterdir(), key=lambda p: int(p.name))
    (damaged / "manifest.json").write_text("{}")
    other = toy_config.copy_and_resolve_references()
    other.gamma = 0.5
    last = toy_config.total_env_steps

    def look(folders, configs):
        def one(index):
            find = lambda: find_saved([folders[index]], [configs[index]])  # noqa: E731
            saved = processes.by_all(find)
            steps = [s and s.env_steps for s in saved]
            processes.require_equal("checkpoint", steps)
            return steps

        return two(one)

    same = [toy_config] * 2
    assert look([finished_run] * 2, same) == [[last]] * 2
    for answer in look([finished_run] * 2, [toy_config, other]):
        assert "cannot go on with config.gamma: 0.999 -> 0.5" in str(answer)
    for answer in look([finished_run, tmp_path], same):  # no shared file system
        assert "process 1 found checkpoint [None], process 0" in str(answer)
    for answer in look([finished_run, broken], same):
        assert "process 1 found checkpoint [" in str(answer)
        assert f"process 0 [{last}]; all need" in str(answer)
    assert f"checkpoint {last} cannot be used" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--process_id=0"], "--coordinator: missing"),
        (
            ["--coordinator=a:1", "--num_processes=2", "--process_id=2"],
            "--process_id: found 2, expected 0 to 1",
        ),
    ],
)
def test_incomplete_flags_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        launch.parse(["launch.py", command.BASE, *arguments])


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return random_policy(tmp_path_factory.mktemp("policy") / "policy")


@pytest.fixture(scope="module")
def pair(tmp_path_factory, policy):
    """The folder of an unbroken run of two processes."""
    folder = tmp_path_factory.mktemp("pair") / "run"
    run(2, policy, folder)
    return folder


@pytest.mark.slow
def test_two_processes_train_and_evaluate_one_run(pair, policy, tmp_path):
    last = 24 * VECTOR_STEP
    found = arrays(pair, last)
    assert found["resume/obs"].shape[0] == 2 and found["replay/total"] == 48
    assert found["checkpoints/learner/num_updates"] == 14 * 2
    with open(pair / "eval.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 4  # three episodes, each once, in four evaluations
    # The first rollouts are those of one process: the same episodes, the same actions.
    run(1, policy, tmp_path / "alone")
    alone = arrays(tmp_path / "alone", last)
    for name in ("obs", "action", "reward"):
        np.testing.assert_allclose(found[name][:20], alone[name][:20], atol=1e-6)
    seeds = [r["seed"] for r in rows]
    with open(tmp_path / "alone" / "eval.csv") as file:
        assert seeds == [row["seed"] for row in csv.DictReader(file)]
    recent = [notes_of(place, last)["recent"] for place in (pair, tmp_path / "alone")]
    assert len(recent[0]) == len(recent[1]) == 6
    np.testing.assert_allclose(recent[0][:2], recent[1][:2], rtol=1e-5)


@pytest.mark.slow
def test_two_processes_resume_bit_for_bit_and_as_one(pair, policy, tmp_path):
    folder = tmp_path / "run"
    run(2, policy, folder, vector_steps=16)
    shutil.copytree(folder, tmp_path / "one")
    run(2, policy, folder, "--resume")
    last = 24 * VECTOR_STEP
    found, want = arrays(folder, last), arrays(pair, last)
    assert found.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    notes = [notes_of(place, last) for place in (folder, pair)]
    assert notes[0]["recent"] == notes[1]["recent"]
    assert notes[0]["summaries"][-1] == notes[1]["summaries"][-1]
    run(1, policy, tmp_path / "one", "--resume")
    one = arrays(tmp_path / "one", last)
    assert one["checkpoints/learner/num_updates"] == 14 * 2
    assert one["replay/total"] == 48


@pytest.mark.slow
def test_a_signal_to_one_stops_all_and_mistakes_end_all(pair, policy, tmp_path):
    folder = tmp_path / "run"
    started = start(2, policy, folder, vector_steps=4000)
    while not (folder / "replay").exists():
        assert all(process.poll() is None for process in started)
        time.sleep(0.1)
    started[1].send_signal(signal.SIGTERM)
    ended = finish(started)
    assert [code for code, _ in ended] == [0, 0], ended
    assert "everything is saved" in ended[0][1]
    for code, errors in finish(start(2, policy, pair)):
        assert code == 2 and "exists and is not empty" in errors
    other = start(2, policy, tmp_path / "other", num_envs=3)
    for code, errors in finish(other):
        assert code == 2 and "config.num_envs: found 3, expected a multiple" in errors
