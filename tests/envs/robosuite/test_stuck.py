"""An environment whose thread hangs is named, and the process ends all the same."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from dynvgd_jax.core.errors import StuckError
from dynvgd_jax.envs.robosuite import vector
from dynvgd_jax.envs.robosuite.stock import ChunkOutcome

ROOT = Path(vector.__file__).resolve().parents[3]
LIMIT_S = 0.4


class FakeSimulator:
    def close(self):
        pass


class FakeStepper:
    """Takes `seconds` a chunk; waits for ever where that is None."""

    compile_s = 0.0  # of an empty chunk

    def __init__(self, seconds):
        self.seconds, self.release = seconds, threading.Event()

    def start(self):
        pass

    def run(self, actions):
        steps = len(actions)
        self.release.wait(self.seconds if steps else self.compile_s)
        return ChunkOutcome(np.zeros(19), np.zeros(steps), np.zeros(steps, bool), False)


def fake_envs(monkeypatch, seconds, num_threads):
    """Lift's environments without a simulator."""
    monkeypatch.setattr(vector, "STUCK_AFTER_S", LIMIT_S)
    monkeypatch.setattr(vector, "STUCK_PER_CONTROL_STEP_S", 0.0)
    monkeypatch.setattr(vector, "_WAIT_SLICE_S", 0.1)
    monkeypatch.setattr(vector, "build_env", lambda task: FakeSimulator())
    monkeypatch.setattr(vector, "reset_env", lambda env, seed: None)
    monkeypatch.setattr(vector, "observe", lambda task, obs: np.zeros(19))
    steppers = iter([FakeStepper(s) for s in seconds])
    monkeypatch.setattr(
        vector.RobosuiteVectorEnv, "_make_stepper", lambda self, env: next(steppers)
    )
    env = vector.RobosuiteVectorEnv("lift", len(seconds), None, num_threads=num_threads)
    env.reset(np.arange(len(seconds)), 70 + np.arange(len(seconds)))
    return env


def test_a_stuck_environment_is_named_with_its_episode(monkeypatch):
    env = fake_envs(monkeypatch, [0.0, 0.0, 0.0], num_threads=3)
    actions = np.zeros((3, 4, 7))
    env.step(np.arange(3), actions)
    env._steppers[1].seconds = None
    start = time.monotonic()
    with pytest.raises(StuckError) as caught:
        env.step(np.arange(3), actions)
    env.close()  # waits for nobody
    assert time.monotonic() - start < 20 * LIMIT_S
    env._steppers[1].release.set()
    assert str(caught.value).endswith(
        "stuck: environment 1 (episode seed 71, chunk 1) of task lift"
    )


def test_slow_environments_that_get_on_are_not_stuck(monkeypatch):
    env = fake_envs(monkeypatch, [0.25] * 4, num_threads=1)  # 1 s in all
    assert env.step(np.arange(4), np.zeros((4, 4, 7))).obs.shape == (4, 19)
    env.close()


def test_compiling_is_not_being_stuck(monkeypatch):
    monkeypatch.setattr(FakeStepper, "compile_s", 3 * LIMIT_S)
    env = fake_envs(monkeypatch, [0.0], num_threads=1)
    env.step(np.arange(1), np.zeros((1, 4, 7)))
    env.close()


COMMAND = """
import sys
import pytest
from dynvgd_jax import launch
from tests.envs.robosuite.test_stuck import fake_envs, np

def run_job(*arguments):
    env = fake_envs(pytest.MonkeyPatch(), [0.0, None], num_threads=2)
    try:
        env.step(np.arange(2), np.zeros((2, 4, 7)))
    finally:
        env.close()

launch.run_job = run_job
config = "--config=configs/lift_ddim8.py:quick"
sys.exit(launch.main(["launch.py", config, f"--workdir={sys.argv[1]}"]))
"""


def test_the_process_ends_with_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, str(tmp_path / "run")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(
        "launch.py: no environment finished its chunk for 0 s"
    )
    assert "environment 1 (episode seed 71, chunk 0)" in done.stderr
    assert done.stderr.count("\n") == 1
