"""A run killed with SIGKILL again and again equals one that was left alone.

Through the command line, each attempt a process of its own. Most kills hit a run of toy
environments, at moments counted in environment steps and changes of files, so that many
fall inside a save; a few hit a run of robosuite's Lift at moments of the clock.
"""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import command
from tests.support.same_run import assert_equal_runs

pytestmark = pytest.mark.slow

KILLS = 30
# A save has about 60 moments, a vector step 2, an evaluation 8: a run some 1,000.
MOST_MOMENTS = 120


def test_thirty_kills_at_random_moments(finished_run, toy_config, tmp_path):
    rng = random.Random(0)
    base = [command.BASE, *command.flags(toy_config)]
    kills, chains = 0, 0
    while kills < KILLS:
        folder, goes_on = tmp_path / f"run{chains}", []
        chains += 1
        code = -signal.SIGKILL
        while code == -signal.SIGKILL:
            moment = rng.randint(1, MOST_MOMENTS) if kills < KILLS else 0
            arguments = [*base, f"--workdir={folder}", *goes_on]
            code, _, errors = command.run(arguments, KILL_AT=moment)
            kills += code == -signal.SIGKILL
            if folder.is_dir():
                goes_on = ["--resume"]
        assert code == 0, errors
        assert_equal_runs(folder, finished_run)


def lift_flags(folder: Path) -> list[str]:
    changes = {
        "num_envs": 2,
        "first_rollout_env_steps": 32,
        "total_env_steps": 160,
        "utd": 2,
        "batch_size": 16,
        "critic.width": 16,
        "eval.episodes": 2,
        "eval.num_envs": 2,
        "eval.every_env_steps": 80,
        "eval.noises": ("tanh_randn",),
        "checkpoint.every_env_steps": 24,
        "log.every_env_steps": 16,
    }
    flags = [f"--config.{name}={value}" for name, value in changes.items()]
    return ["--config=configs/lift_ddim8.py:quick", *flags, f"--workdir={folder}"]


def start_lift(folder: Path) -> subprocess.Popen:
    resume = ["--resume"] if folder.is_dir() else []
    return subprocess.Popen(
        [sys.executable, "launch.py", *lift_flags(folder), *resume],
        cwd=command.ROOT,
        env=command.as_users_run(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish_lift(folder: Path) -> None:
    process = start_lift(folder)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors


def newest(folder: Path) -> int:
    """The newest complete checkpoint; -1 before the first."""
    places = (folder / "checkpoints").glob("[0-9]*")
    return max((int(path.name) for path in places), default=-1)


def test_kills_of_a_robosuite_run(tmp_path):
    rng = random.Random(1)
    finish_lift(tmp_path / "whole")
    folder = tmp_path / "killed"
    # once in the first evaluation, in the first rollouts or at learning's start, later
    for after in (0, 24, 72):
        process = start_lift(folder)
        while newest(folder) < after:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.5))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    finish_lift(folder)
    assert_equal_runs(folder, tmp_path / "whole")
