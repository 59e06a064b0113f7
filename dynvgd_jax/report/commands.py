"""The command of a run: as it was typed, or worked out from its configuration."""

import functools
import shlex
from typing import Any

from dynvgd_jax.core.config_file import config_files, load_config
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import flat
from dynvgd_jax.report.grouping import differing, value_text
from dynvgd_jax.report.reading import Run

PRESETS = ("", "quick", "hour", "gpu", "published_quick")


def command_of(run: Run) -> str:
    """Returns the command line of `launch.py` that made the run.

    It is the one that the run keeps. Where it keeps none, or another program trained
    it, the file and preset of this program that differ in the fewest fields are named,
    and each field that differs is given.
    """
    if is_kept(run):
        return f"python {run.command}"
    name, fields = min(
        _known(), key=lambda known: (len(_changes(run, known[1])), known[0])
    )
    words = ["python", "launch.py", f"--config={name}"]
    changed = _changes(run, fields)
    words += [f"--config.{f}={_typed(run.config[f])}" for f in changed]
    return shlex.join([*words, f"--workdir={run.folder}"])


def is_kept(run: Run) -> bool:
    """Whether the run keeps a command of `launch.py`."""
    return run.command.split(" ", 1)[0] == "launch.py"


def _changes(run: Run, fields: dict[str, Any]) -> list[str]:
    return [f for f in differing((run.config, fields)) if f in run.config]


def _typed(value: Any) -> str:
    return "" if value == "" else value_text(value)


@functools.cache
def _known() -> list[tuple[str, dict[str, Any]]]:
    """Every training configuration of this program: its name, its fields."""
    found = []
    for file in config_files():
        for preset in PRESETS:
            name = f"{file}:{preset}" if preset else file
            try:
                config = load_config(name)
            except UserError:  # the file has no such preset
                continue
            if config.job == "train":
                found.append((name, flat(config)))
    return found
