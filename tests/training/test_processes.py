"""Several processes of one run over loopback: as a cluster would start them."""

import csv
import shutil
import signal
import socket
import time

import numpy as np
import pytest

from dynvgd_jax import launch
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.training import processes
from tests.support import command
from tests.support.same_run import arrays, notes_of
from tests.support.tiny_run import VECTOR_STEP, random_policy, tiny


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


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return random_policy(tmp_path_factory.mktemp("policy") / "policy")


def start(count, policy, folder, *arguments, vector_steps=24, **changes):
    """Starts the processes of one run."""
    config = tiny(policy, total_env_steps=vector_steps * VECTOR_STEP, **changes)
    flags = [command.BASE, *command.flags(config), f"--workdir={folder}", *arguments]
    several = [f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={count}"]
    return [
        command.start(
            [*flags, *([*several, f"--process_id={i}"] if count > 1 else [])],
            XLA_FLAGS="--xla_force_host_platform_device_count=1",
        )
        for i in range(count)
    ]


def finish(started):
    """Returns each process's exit code and stderr."""
    try:
        outputs = [process.communicate(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
    return [
        (process.returncode, errors)
        for process, (_, errors) in zip(started, outputs, strict=True)
    ]


def run(*arguments, **changes):
    for code, errors in finish(start(*arguments, **changes)):
        assert code == 0, errors


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
