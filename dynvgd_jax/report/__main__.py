r"""Makes a page, figures and CSV files of runs: docs/report.md.

  python -m dynvgd_jax.report runs --output=report
  python -m dynvgd_jax.report runs/can_quick runs/can_vgd

Each argument is a run folder, or a folder that holds some at any depth. --output, by
default `report`, is a new folder or that of an earlier report, which is replaced; open
its index.html. Runs may be unfinished, of one method, or of several tasks: what is
missing, and what differs though it should not, is said on stderr and on the page.
--version prints the program's version.
Mistakes are answered with one line on stderr and exit code 2.
"""

import sys
from pathlib import Path

from absl import flags

from dynvgd_jax.core.command import asks_for, run_command, version_text
from dynvgd_jax.core.command_line import expand
from dynvgd_jax.core.errors import UserError

NAME = "dynvgd_jax.report"


def main(argv: list[str]) -> int:
    """Makes the report that `argv` asks for and returns the exit code."""

    def body() -> None:
        if asks_for(argv, "--help", "-h"):
            print(__doc__)
        elif asks_for(argv, "--version"):
            print(version_text())
        else:
            _report(*parse(argv))

    return run_command(NAME, body)


def _report(paths: list[Path], output: Path) -> None:
    from dynvgd_jax.report.build import build_report  # matplotlib takes its time

    for note in build_report(paths, output):
        print(f"{NAME}: {note}", file=sys.stderr)
    print(f"wrote {output / 'index.html'}")


def parse(argv: list[str]) -> tuple[list[Path], Path]:
    """Returns the folders to read and the one to write; UserError for any mistake."""
    values = flags.FlagValues()
    flags.DEFINE_string(
        "output", "report", "Folder.", flag_values=values, module_name=argv[0]
    )
    try:
        folders = values(argv)[1:]
    except flags.Error as error:
        raise UserError(str(error)) from error
    if not folders:
        raise UserError("found no folder, expected run folders, such as runs/")
    if not values.output.strip():
        raise UserError("--output: found nothing, expected a folder")
    return [expand(folder) for folder in folders], expand(values.output)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
