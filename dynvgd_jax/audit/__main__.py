r"""Audits the critics of a run: do they know which actions are better, and how well?

  python -m dynvgd_jax.audit runs/can_ddim8-quick-seed0
  python -m dynvgd_jax.audit runs/can_ddim8-quick-seed0/checkpoints/576000 \
      --states=64 --chunks=8 --repeats=8 --lengths=0.05,0.1,0.2,0.4

The first argument is a run folder (its newest checkpoint) or one checkpoint. Writes
tables to the terminal and audit.png, audit.json and three CSV files of raw numbers to
--output, by default <run>/audit/<control steps>. docs/audit.md tells how to read them.
Mistakes are answered with one line on stderr and exit code 2.
"""

import functools
import os
import sys
from pathlib import Path
from typing import Any

# Read by XLA and MuJoCo when they are imported: no chatter, no OpenGL context.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MUJOCO_GL", "disabled")

from absl import flags

from dynvgd_jax.core.config_check import CHOICES
from dynvgd_jax.core.errors import StuckError, UserError
from dynvgd_jax.runs.compile_cache import use_compile_cache

NAME = "dynvgd_jax.audit"
POLICIES = ("steered", "base")
OPTIONS = ("states", "chunks", "repeats", "num_envs", "num_threads", "seed", "policy")
OPTIONS += ("noise", "output")


def main(argv: list[str]) -> int:
    """Runs the audit that `argv` asks for and returns the exit code."""
    if {"-h", "--help", "-help"} & set(argv[1:]):
        print(__doc__ + _define_flags(flags.FlagValues()).main_module_help())
        return 0
    try:
        folder, options = parse(argv)
        use_compile_cache()
        # Only now are JAX and the simulator imported.
        from dynvgd_jax.audit.run import run_audit

        run_audit(folder, **options)
    except UserError as error:
        print(f"{NAME}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except StuckError as error:
        print(f"{NAME}: {error}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(1)  # Python's own end would wait for the thread
    except KeyboardInterrupt:
        print(f"{NAME}: interrupted, nothing was written", file=sys.stderr)
        return 130
    return 0


def parse(argv: list[str]) -> tuple[Path, dict[str, Any]]:
    """Returns the run folder and `run_audit`'s options; UserError for any mistake."""
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
    options = {name: values[name].value for name in OPTIONS}
    return Path(folders[0]), options | {"lengths": lengths}


def _define_flags(values: flags.FlagValues) -> flags.FlagValues:
    own = {"flag_values": values, "module_name": sys.argv[0]}
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
    flags.DEFINE_enum(
        "noise", None, CHOICES["acting_noise"], "Start noise; default acting's.", **own
    )
    flags.DEFINE_string("output", None, "New folder for the results.", **own)
    return values


if __name__ == "__main__":
    sys.exit(main(sys.argv))
