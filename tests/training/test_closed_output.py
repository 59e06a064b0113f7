"""Runs whose terminal or reader goes away: saved as after SIGTERM, and resumable."""

import os
import subprocess
import sys

import pytest

from tests.support import command


@pytest.fixture
def arguments(toy_config, tmp_path):
    folder = tmp_path / "run"
    return [command.BASE, *command.flags(toy_config), f"--workdir={folder}"]


def child(arguments, prefix=(), **options):
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "tests.support.reach_launch", *arguments],
        cwd=command.ROOT,
        env=command.environment(),
        **options,
    )


def assert_resumes(arguments, finished_run, tmp_path):
    steps = [int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()]
    whole = [int(path.name) for path in (finished_run / "checkpoints").iterdir()]
    assert steps and max(steps) < max(whole)  # it did stop early
    code, output, errors = command.run([*arguments, "--resume"])
    assert code == 0 and "Success with 95 % intervals" in output, errors
    text = (tmp_path / "run" / "eval.csv").read_text()
    assert text == (finished_run / "eval.csv").read_text()


def test_a_pipe_whose_reader_ends(arguments, finished_run, tmp_path):
    # launch.py 2>&1 | head -1
    process = child(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        assert process.stdout.readline().startswith(b"replay buffer")
        process.stdout.close()
        assert process.wait(timeout=300) == 0
    finally:
        process.kill()
    assert_resumes(arguments, finished_run, tmp_path)


@pytest.mark.slow
def test_a_terminal_that_closes(arguments, finished_run, tmp_path):
    ours, theirs = os.openpty()
    terminal = os.ttyname(theirs)
    # The first terminal that the leader of a new session opens belongs to it.
    opens = ["sh", "-c", f'exec "$@" <{terminal} >{terminal} 2>&1', "sh"]
    process = child(arguments, prefix=opens, start_new_session=True)
    try:
        shown = b""
        while b"replay buffer" not in shown:
            shown += os.read(ours, 1024)
        os.close(theirs)
        os.close(ours)  # SIGHUP, and every further write fails with EIO
        assert process.wait(timeout=300) == 0
    finally:
        process.kill()
    assert_resumes(arguments, finished_run, tmp_path)


@pytest.mark.slow
def test_a_log_file_on_a_full_disk(arguments, finished_run, tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    with open("/dev/full", "w") as full:
        process = child(arguments, stdout=full, stderr=full)
        try:
            assert process.wait(timeout=300) == 0
        finally:
            process.kill()
    text = (tmp_path / "run" / "eval.csv").read_text()
    assert text == (finished_run / "eval.csv").read_text()
