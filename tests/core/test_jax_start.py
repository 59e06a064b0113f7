"""What the environment asks of JAX: done, or one line."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from dynvgd_jax.core import jax_start
from dynvgd_jax.core.errors import UserError

ROOT = Path(__file__).parents[2]
CONFIG = "--config=configs/lift_ddim8.py:quick"


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        (
            "JAX_PLATFORMS=cuda",
            ["JAX finds no such device", 'pip install "jax[cuda12]'],
        ),
        ("JAX_PLATFORMS=gpu", ["JAX finds no such device", "unset"]),
        ("JAX_PLATFORMS=foo", ["JAX_PLATFORMS=foo: JAX finds no such device"]),
        ("JAX_PLATFORM_NAME=gpu", ["JAX_PLATFORM_NAME=gpu: JAX finds"]),
        ("JAX_DEFAULT_DEVICE=gpu", ["JAX_DEFAULT_DEVICE=gpu: JAX finds"]),
        ("JAX_ENABLE_X64=1", ["JAX_ENABLE_X64: found True", "unset JAX_ENABLE_X64"]),
        ("JAX_ENABLE_X64=maybe", ["invalid truth value 'maybe'", "JAX_ENABLE_X64"]),
        ("JAX_NUMPY_DTYPE_PROMOTION=strict", ["found strict", "standard"]),
        ("JAX_DEFAULT_PRNG_IMPL=rbg", ["found rbg", "threefry2x32"]),
    ],
)
def test_one_line_before_anything_is_written(tmp_path, variable, words):
    name, _, value = variable.partition("=")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    workdir = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "launch.py", CONFIG, f"--workdir={workdir}"],
        cwd=ROOT,
        env=environment | {name: value},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("launch.py: ")
    for word in words:
        assert word in done.stderr
    assert not workdir.exists()


@pytest.mark.parametrize(
    "name",
    [
        "guidance",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("base_policy_modes", "evaluation", "learner", "pretrain")
            + ("learner_torch", "seeds")
        ),
    ],
)
def test_benchmarks_name_missing_devices_in_one_line(name):
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}"],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cuda"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    start = f"{name}.py: JAX_PLATFORMS=cuda: JAX finds no such device"
    assert done.stderr.startswith(start)


def test_a_gpu_that_is_not_used_is_named(tmp_path, monkeypatch, capsys):
    driver = tmp_path / "version"
    monkeypatch.setattr(jax_start, "_NVIDIA_DRIVER", driver)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(jax, "devices", lambda: jax.local_devices(backend="cpu"))
    jax_start.open_devices()
    assert capsys.readouterr().err == ""
    driver.touch()
    jax_start.open_devices()
    assert "an NVIDIA GPU is here, but JAX computes on the CPU" in (
        capsys.readouterr().err
    )
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    jax_start.open_devices()
    assert capsys.readouterr().err == ""


def test_what_nobody_asked_for_keeps_its_traceback(monkeypatch):
    def broken():
        raise RuntimeError("a bug")

    monkeypatch.setattr(jax, "devices", broken)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    with pytest.raises(UserError, match="JAX_PLATFORMS=cpu"):
        jax_start.open_devices()
    monkeypatch.delenv("JAX_PLATFORMS")
    with pytest.raises(RuntimeError, match="a bug"):
        jax_start.open_devices()
