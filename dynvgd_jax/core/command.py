"""What every command does alike: mistakes in one line, and exit codes."""

import errno
import os
import sys
from collections.abc import Callable

from absl import flags

from dynvgd_jax import __version__
from dynvgd_jax.core.errors import StuckError, UserError, missing_package
from dynvgd_jax.core.output import Output

# What a disk may answer at any time, and what a path on the command line can cause;
# other OSErrors are bugs and keep their traceback.
DISK_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENOTDIR,
)


def run_command(
    program: str,
    body: Callable[[], None],
    *,
    memory_advice: str = "free some memory",
    disk_note: str = "",
) -> int:
    """Runs `body` and returns the exit code; what a user can act on is one line.

    Output that nobody takes is dropped: see `Output`.

    Args:
      program: its name, which each line on stderr begins with.
      body: raises UserError for a user's mistake.
      memory_advice: what to do where the memory of host or device ends.
      disk_note: what stands behind a disk's error and behind Ctrl-C's line, such as
        "nothing was written".

    Returns:
      0; 2 after a mistake, or where disk or memory end; 130 after Ctrl-C. A
      StuckError ends the process with 1.
    """
    with Output():
        return _run(program, body, memory_advice, disk_note)


def _run(program: str, body, memory_advice: str, disk_note: str) -> int:
    def say(text: str) -> None:
        print(f"{program}: {' '.join(text.split())}", file=sys.stderr, flush=True)

    try:
        body()
    except UserError as error:
        say(str(error))
        return 2
    except ModuleNotFoundError as error:
        say(missing_package(error))
        return 2
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        say(f"{error}; {disk_note}" if disk_note else str(error))
        return 2
    except (MemoryError, RuntimeError) as error:
        # JAX reports a device without memory as RuntimeError.
        text = " ".join(str(error).split())[:300]
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in text:
            raise
        say(f"out of memory: {text or 'no more is left'}; {memory_advice}")
        return 2
    except StuckError as error:
        say(str(error))
        sys.stdout.flush()
        os._exit(1)  # Python's own end would wait for the thread
    except KeyboardInterrupt:
        say(f"interrupted, {disk_note}" if disk_note else "interrupted")
        return 130
    return 0


def run_main(
    program: str,
    argv: list[str],
    usage: Callable[[], str],
    body: Callable[[], None],
    **options: str,
) -> int:
    """Answers --help and --version, else runs `body`; returns the exit code.

    Args:
      program: see `run_command`.
      argv: `sys.argv`; one of these two flags anywhere decides.
      usage: what --help prints; it may read files.
      body: raises UserError for a user's mistake.
      **options: of `run_command`.
    """

    def answer() -> None:
        given = set(argv[1:])
        if given & {"--help", "-help", "-h"}:
            print(usage())
        elif given & {"--version", "-version"}:
            print(f"dynvgd_jax {__version__}")
        else:
            body()

    return run_command(program, answer, **options)


def define_quiet(values: flags.FlagValues) -> None:
    """Defines --quiet, which every command has that prints progress."""
    flags.DEFINE_bool("quiet", False, "Errors and results only.", flag_values=values)
