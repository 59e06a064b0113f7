"""The second start of a program loads what the first compiled."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dynvgd_jax.runs import compile_cache

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
from dynvgd_jax.runs.compile_cache import use_compile_cache
print(use_compile_cache())
import jax
from jax import monitoring
events = []
monitoring.register_event_listener(lambda name, **_: events.append(name))
print(jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((8, 8))))
print(events.count("/jax/compilation_cache/cache_hits"))
"""


@pytest.fixture
def no_settings(monkeypatch, tmp_path):
    monkeypatch.delenv(compile_cache.FOLDER, raising=False)
    monkeypatch.setenv(compile_cache.LEAST_SECONDS, "0")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_second_start_loads(no_settings, tmp_path):
    def start():
        command = [sys.executable, "-c", PROGRAM]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True
        )
        folder, value, hits = done.stdout.split()
        assert value == "512.0"  # 64 sums of 8 ones
        return folder, int(hits)

    folder, hits = start()
    assert Path(folder).parent == tmp_path / "dynvgd_jax" / "xla" and hits == 0
    again, hits = start()
    assert again == folder and hits > 0


def test_the_users_own_setting_holds(no_settings, monkeypatch, tmp_path):
    monkeypatch.setenv(compile_cache.FOLDER, "/mine")
    assert compile_cache.use_compile_cache() == Path("/mine")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_switches_it_off(no_settings, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert compile_cache.use_compile_cache() is None
    assert compile_cache.FOLDER not in os.environ
