"""Runs of the command line with toy environments, as processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BASE = f"--config={ROOT}/configs/can_ddim8.py"


def flags(config) -> list[str]:
    """Returns the flags that turn configs/can_ddim8.py into `config`."""
    from configs import can_ddim8
    from dynvgd_jax.core.fields import field_names, get_field

    base = can_ddim8.get_config()
    return [
        f"--config.{name}={get_field(config, name)}"
        for name in field_names(config)
        if get_field(config, name) != get_field(base, name)
    ]


def environment(**variables) -> dict[str, str]:
    """Returns variables for a process of its own; tests/conftest.py sets the others.

    XLA_FLAGS are added to those that it sets.
    """
    shared = {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
    }
    if "XLA_FLAGS" in variables:
        flags = os.environ.get("XLA_FLAGS", ""), variables["XLA_FLAGS"]
        shared["XLA_FLAGS"] = " ".join(flags).strip()
        del variables["XLA_FLAGS"]
    return os.environ | shared | {k: str(v) for k, v in variables.items()}


def as_users_run(**variables) -> dict[str, str]:
    """Returns variables for a process whose programs are those of a user's run."""
    hasty = ("JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS")
    polished = {k: v for k, v in environment().items() if k not in hasty}
    return polished | {k: str(v) for k, v in variables.items()}


def start(arguments, **variables) -> subprocess.Popen:
    """Starts `launch.py` with toy environments; see tests/support/reach_launch.py."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.reach_launch", *arguments],
        cwd=ROOT,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(arguments, **variables) -> tuple[int, str, str]:
    """Returns exit code, stdout and stderr of a run with toy environments."""
    process = start(arguments, **variables)
    try:
        output, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    return process.returncode, output, errors
