"""Comparisons of tiny runs in the toy environments of tests/support/reach.py."""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from configs import base
from dynvgd_jax.compare.attempt import RunLock
from dynvgd_jax.core.fields import field_names, get_field
from tests.support.tiny_run import VECTOR_STEP, tiny

PROGRAM = (sys.executable, "-m", "tests.support.reach_launch")
# Long enough to be hit while it trains.
VECTOR_STEPS = 240

CONFIG = """
from configs import base, compare_can
from dynvgd_jax.core.fields import nested

def get_config(preset=""):
    config = base.get_config()
    config.update_from_flattened_dict({fields})
    if preset:
        compare_can.add_comparison(config, __file__, "")
        table = {table}
        config.compare.methods = tuple(table)
        config.compare.overrides = nested({{n: nested(table[n]) for n in table}})
        config.compare.seeds = (0, 1)
    return config
"""


def write_config(path: Path, policy: Path, table: dict, **changes) -> str:
    """Writes a tiny run as a file; its preset "compare" compares methods.

    Args:
      path: of the file.
      policy: folder of the base policy.
      table: method -> its fields by dotted name.
      **changes: of `tests.support.tiny_run.tiny`.

    Returns: what --config takes.
    """
    config = tiny(policy, **changes)
    before = base.get_config()
    fields = {
        name: get_field(config, name)
        for name in field_names(config)
        if get_field(config, name) != get_field(before, name)
    }
    path.write_text(CONFIG.format(fields=repr(fields), table=repr(table)))
    return f"{path}:compare"


def long_run() -> dict:
    """Changes that make a run long enough, with some checkpoints and evaluations."""
    return {
        "total_env_steps": VECTOR_STEPS * VECTOR_STEP,
        "eval.every_env_steps": 80 * VECTOR_STEP,
        "checkpoint.every_env_steps": 20 * VECTOR_STEP,
    }


def newest_checkpoint(folder: Path) -> int:
    """Control steps behind a run's newest checkpoint; -1 before the first."""
    places = (folder / "checkpoints").glob("[0-9]*")
    return max((int(place.name) for place in places), default=-1)


def wait_for(condition, process=None, seconds: float = 120) -> None:
    """Waits until something is so, while a process goes on."""
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end, "in vain"
        time.sleep(0.02)


def is_free(run) -> bool:
    """Whether no process runs it."""
    lock = RunLock(run)
    free = lock.take()
    lock.release()
    return free


def kill_holders(runs) -> None:
    """SIGKILL to what still runs one of them."""
    for run in runs:
        holder = RunLock(run).holder()
        if holder is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(holder, signal.SIGKILL)
