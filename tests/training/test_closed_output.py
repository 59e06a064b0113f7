"""Runs whose terminal or reader goes away: saved as after SIGTERM, and resumable."""

import os
import subprocess
import sys

import pytest

from dynvgd_jax import launch
from dynvgd_jax.envs import base
from tests.support import command
from tests.support.reach import ReachEnv

pytestmark = pytest.mark.usefixtures("shared_programs")


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


@pytest.fixture
def assert_resumes(arguments, finished_run, tmp_path, monkeypatch, capsys):
    """Called once a process has ended: this one goes on with its run."""

    def check():
        found, whole = (folder / "checkpoints" for folder in (run, finished_run))
        steps, all_steps = ([int(p.name) for p in f.iterdir()] for f in (found, whole))
        assert steps and max(steps) < max(all_steps)  # it did stop early
        monkeypatch.setattr(base, "make_env", make_env)
        code = launch.main(["launch.py", *arguments, "--resume"])
        output, errors = capsys.readouterr()
        assert code == 0 and "Success with 95 % intervals" in output, errors
        text = (run / "eval.csv").read_text()
        assert text == (finished_run / "eval.csv").read_text()

    def make_env(config, normalization, num_envs):
        return ReachEnv(num_envs)

    run = tmp_path / "run"
    return check


@pytest.mark.slow
def test_a_pipe_whose_reader_ends(arguments, assert_resumes):
    # launch.py 2>&1 | head -1
    process = child(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        assert process.stdout.readline().startswith(b"replay buffer")
        process.stdout.close()
        assert process.wait(timeout=300) == 0
    finally:
        process.kill()
    assert_resumes()


@pytest.mark.slow
def test_a_terminal_that_closes(arguments, assert_resumes):
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
    assert_resumes()


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
