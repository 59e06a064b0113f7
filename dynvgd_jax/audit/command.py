r"""Audits the critics of a run: do they know which actions are better, and how well?

  python -m dynvgd_jax.audit runs/can_ddim8-quick-seed0
  python -m dynvgd_jax.audit runs/can_ddim8-quick-seed0/checkpoints/128000 \
      --states=64 --chunks=8 --repeats=8 --lengths=0.05,0.1,0.2,0.4

The first argument is a run folder (its newest checkpoint) or one checkpoint. Writes
tables to the terminal and audit.png, audit.json and three CSV files of raw numbers to
--output, by default <run>/audit/<control steps>. docs/audit.md tells how to read them.
--quiet prints errors and the tables only; --version prints the program's version.
Mistakes are answered with one line on stderr and exit code 2.
"""

import functools
import os
import sys
from pathlib import Path
from typing import Any

# Read by XLA when it is imported: no chatter.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags

from dynvgd_jax.core.command import define_quiet, run_main
from dynvgd_jax.core.command_line import expand
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.jax_start import open_devices
from dynvgd_jax.core.output import quietly
from dynvgd_jax.runs.compile_cache import use_compile_cache

NAME = "dynvgd_jax.audit"
POLICIES = ("steered", "base")
OPTIONS = ("states", "chunks", "repeats", "num_envs", "num_threads", "seed", "policy")
OPTIONS += ("noise", "output")


def main(argv: list[str]) -> int:
    """Runs the audit that `argv` asks for and returns the exit code."""

    def body() -> None:
        folder, options, quiet = parse(argv)
        with quietly(quiet):
            _audit(folder, options)

    def usage() -> str:
        return __doc__ + _define_flags(flags.FlagValues()).main_module_help()

    return run_main(
        NAME,
        argv,
        usage,
        body,
        memory_advice="lower --num_envs",
        disk_note="nothing was written",
    )


def _audit(folder: Path, options: dict[str, Any]) -> None:
    """Only now are JAX and the simulator imported."""
    use_compile_cache()
    open_devices()
    from dynvgd_jax.audit.run import run_audit

    run_audit(folder, **options)


def parse(argv: list[str]) -> tuple[Path, dict[str, Any], bool]:
    """Returns the run folder, `run_audit`'s options and --quiet.

    Raises:
      UserError: whatever is wrong with the arguments.
    """
    values = _define_flags(flags.FlagValues())
    try:
        folders = values(argv)[1:]
        lengths = tuple(float(x) for x in values.lengths)
    except (flags.Error, ValueError) as error:
        raise UserError(str(error)) from error
    if len(folders) != 1:
        found = " ".join(folders) or "none"
        raise UserError(f"found {found}, expected one run folder or checkpoint")
    if not lengths or not all(0 < x <= 10 for x in lengths):
        raise UserError(
            f"--lengths: found {','.join(values.lengths)!r}, expected numbers above 0 "
            "and up to 10, such as 0.05,0.1"
        )
    if len(set(lengths)) < len(lengths):
        raise UserError(f"--lengths: found {lengths}, expected each number once")
    if values.output is not None and not values.output.strip():
        raise UserError("--output: found nothing, expected a folder")
    options = {name: values[name].value for name in OPTIONS}
    options |= {"lengths": lengths, "output": values.output and expand(values.output)}
    return expand(folders[0]), options, values.quiet


def _define_flags(values: flags.FlagValues) -> flags.FlagValues:
    own = {"flag_values": values, "module_name": sys.argv[0]}
    define_quiet(values)
    count = functools.partial(flags.DEFINE_integer, upper_bound=100_000, **own)
    count("states", 24, "States, each of its own episode.", 2)
    count("chunks", 4, "Chunks drawn per state.", 2)
    count("repeats", 4, "Continuations per first chunk.", 2)
    count("num_envs", 16, "Environments side by side, 100 MB each.", 1)
    count("num_threads", 0, "Threads that step them; 0: one per core.", 0)
    flags.DEFINE_integer("seed", 0, "Of everything.", 0, 2**31 - 1, **own)
    flags.DEFINE_list(
        "lengths", ["0.1", "0.2"], "Norms by which chunks are moved.", **own
    )
    flags.DEFINE_enum("policy", "steered", POLICIES, "Which one continues.", **own)
    flags.DEFINE_string("noise", None, "Start noise; default acting's.", **own)
    flags.DEFINE_string("output", None, "New folder for the results.", **own)
    return values
