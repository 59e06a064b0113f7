r"""Makes a page, figures and CSV files of runs: docs/report.md.

  python -m dynvgd_jax.report runs --output=report
  python -m dynvgd_jax.report runs/can_quick runs/can_vgd

Each argument is a run folder, or a folder that holds some at any depth. --output, by
default `report`, is a new folder or that of an earlier report, which is replaced; open
its index.html. Runs may be unfinished, of one method, or of several tasks: what is
missing, and what differs though it should not, is said on stderr and on the page.
--quiet prints errors and the tables only; --version prints the program's version.
Mistakes are answered with one line on stderr and exit code 2.
"""

from pathlib import Path

from absl import flags

from dynvgd_jax.core.command import define_quiet, run_main
from dynvgd_jax.core.command_line import expand
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.output import note, quietly
from dynvgd_jax.runs.terminal import print_next

NAME = "dynvgd_jax.report"


def main(argv: list[str]) -> int:
    """Makes the report that `argv` asks for and returns the exit code."""

    def body() -> None:
        folders, output, quiet = parse(argv)
        with quietly(quiet):
            _report(folders, output)

    return run_main(NAME, argv, lambda: __doc__, body)


def _report(paths: list[Path], output: Path) -> None:
    from dynvgd_jax.report.build import build_report  # matplotlib takes its time

    for text in build_report(paths, output):
        note(f"{NAME}: {text}")
    print(f"wrote {output / 'index.html'}")
    print_next({"look": ("xdg-open", output / "index.html")})


def parse(argv: list[str]) -> tuple[list[Path], Path, bool]:
    """Returns the folders to read, the one to write, and --quiet.

    Raises:
      UserError: whatever is wrong with the arguments.
    """
    values = flags.FlagValues()
    flags.DEFINE_string(
        "output", "report", "Folder.", flag_values=values, module_name=argv[0]
    )
    define_quiet(values)
    try:
        folders = values(argv)[1:]
    except flags.Error as error:
        raise UserError(str(error)) from error
    if not folders:
        raise UserError("found no folder, expected run folders, such as runs/")
    if not values.output.strip():
        raise UserError("--output: found nothing, expected a folder")
    folders = [expand(folder) for folder in folders]
    return folders, expand(values.output), values.quiet
