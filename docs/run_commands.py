"""Runs the commands that README and docs print, as printed, in a clone.

    python -m docs.run_commands ~/clone                  # what takes up to two minutes
    python -m docs.run_commands ~/clone --minutes=60 --have network root
    python -m docs.run_commands ~/clone --pages docs/deploy.md

The clone is changed as a reader's would be: give it a new one. `python` is that of its
`.venv` where it has one, else the one that runs this program. A command that stands on
several pages runs once; what it takes and needs, and so what is left out, its page says
(docs/commands.py). Each has three times the time that it is said to take, and a minute.
Prints a line for each command: how it ended, seconds, page, command. Nothing stops at a
failure; the exit code is 1 where there was one.
"""

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from docs import commands
from docs.commands import NEEDS, Command

SERVES_S = 20.0  # what serves has served well when it still runs after so long
MARGIN_S = 60.0  # that every command has beyond three times what it is said to take
LAST_LINES = 12  # of a failed command's output


class Result(NamedTuple):
    """How a command ended."""

    command: Command
    seconds: float
    exit_code: int | None  # None: left out, or stopped for its time
    note: str  # why it was left out; the end of what a failed one printed
    outcome: str  # "ok", "failed" or "left out"


def run_all(
    root: Path, pages: list[str], most_s: float, have: set[str]
) -> Iterator[Result]:
    """Runs the commands of `pages` in the clone `root`, in their order.

    Args:
      root: the clone.
      pages: paths below it.
      most_s: what is said to take longer is left out.
      have: which of `NEEDS` the machine has.
    """
    done: dict[str, Command] = {}
    for page in pages:
        for command in commands.commands(page, root):
            plain = _plain(command.text)
            reason = _left_out(command, root, most_s, have)
            if plain in done:
                before = done[plain]
                reason = f"as {before.page}:{before.line}"
            if reason:
                yield Result(command, 0.0, None, reason, "left out")
                continue
            done[plain] = command
            yield run_one(command, root)


def _plain(text: str) -> str:
    """A command without the comment behind it, in one line."""
    return re.sub(r"\s+#[^\n]*$", "", text).strip()


def _left_out(command: Command, root: Path, most_s: float, have: set[str]) -> str:
    """Why the command cannot run here, or nothing."""
    mark = command.mark
    for need in mark.needs:
        if need in NEEDS and need not in have:
            return f"needs {NEEDS[need]}: --have {need}"
        if need not in NEEDS and not (root / need).exists():
            return f"needs {need}"
    for path in mark.without:
        if (root / path).exists():
            return f"{path} is there already"
    if mark.seconds > most_s:
        return f"takes {_time(mark.seconds)}"
    return ""


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.0f} min"


def run_one(command: Command, root: Path) -> Result:
    """Runs one command in the clone `root`."""
    mark, begin = command.mark, time.monotonic()
    limit_s = SERVES_S if mark.serves else 3 * mark.seconds + MARGIN_S
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            ["bash", "-c", command.text],
            cwd=root,
            env=_environment(root),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
        seconds = time.monotonic() - begin
        output.seek(0)
        printed = output.read().decode(errors="replace").splitlines()
    # to serve is to be still there
    good = code is None if mark.serves else code == 0
    if good:
        return Result(command, seconds, code, "", "ok")
    last = [] if code is not None else [f"stopped after {limit_s:.0f} s"]
    note = "\n".join(printed[-LAST_LINES:] + last)
    return Result(command, seconds, code, note, "failed")


def _end(process: subprocess.Popen) -> None:
    """Ends the command with all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
            return


def _environment(root: Path) -> dict[str, str]:
    """Variables as in a shell in which the clone's environment is active."""
    local = root / ".venv" / "bin"
    first = local if local.is_dir() else Path(sys.executable).parent
    return os.environ | {"PATH": f"{first}{os.pathsep}{os.environ['PATH']}"}


def show(result: Result) -> str:
    """Returns a result as the table's line, with what a failed one printed."""
    command = result.command
    code = "-" if result.exit_code is None else str(result.exit_code)
    place = f"{command.page}:{command.line}"
    text = re.sub(r"\s+", " ", command.text.replace("\\\n", " "))
    line = f"{result.outcome:8}  {code:>4}  {result.seconds:6.1f}  {place:28}  {text}"
    note = result.note.splitlines()
    if result.outcome == "left out":
        return f"{line}  [{result.note}]"
    return "\n".join([line, *(f"    | {printed}" for printed in note)])


def main(arguments: list[str] | None = None) -> int:
    """Runs what the command line asks for and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clone", type=Path)
    parser.add_argument("--pages", nargs="+", help="README and all of docs")
    parser.add_argument("--minutes", type=float, default=2.0, help="the most of each")
    parser.add_argument("--have", nargs="+", choices=NEEDS, default=[])
    options = parser.parse_args(arguments)
    root = options.clone.expanduser().resolve()
    if not (root / "README.md").is_file():
        parser.error(f"{root} is no clone: it has no README.md")
    pages = options.pages or commands.pages(root)
    for page in pages:
        if not (root / page).is_file():
            parser.error(f"found no page {page}, expected such as docs/install.md")
    print(f"{'':8}  exit  {'s':>6}  {'page':28}  command")
    counts = dict.fromkeys(("ok", "failed", "left out"), 0)
    results = run_all(root, pages, 60 * options.minutes, set(options.have))
    for result in results:
        print(show(result), flush=True)
        counts[result.outcome] += 1
    print(", ".join(f"{number} {outcome}" for outcome, number in counts.items()))
    return int(counts["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
