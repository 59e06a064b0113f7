"""The shell commands that README and docs print, and what each needs to run.

A comment stands before each block of commands, which no reader of the page sees:

    <!-- run: 20 s -->
    <!-- run: 31 min; serves, needs runs/; 2 min, needs runs/can_ddim8-quick-seed0 -->

One mark for all commands of the block, or one for each, in their order, between
semicolons. A mark begins with the time that the command takes, on one quiet core, or
with `serves` for what goes on until it is stopped. Then, between commas:

    needs PATH      a file or folder of the clone: a slash or a dot is in its name
    needs WORD      one of `NEEDS`
    without PATH    must not be there yet: a run never writes over another
"""

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[1]
NEEDS = {
    "GPU": "an NVIDIA GPU",
    "cluster": "several machines, or a scheduler",
    "root": "Debian's apt-get as root",
    "network": "downloads, and an environment that may be changed",
    "person": "a person, who completes it or does something beside it",
}
SHELL = ("bash", "sh")  # languages of blocks
# What a command begins with in a block that names no language, or inside a sentence.
_PROGRAM = re.compile(
    r"(\w+=\S* )*"
    r"(\S*/)?(python[\d.]*|pip|taskset|srun|tensorboard|apt-get|convert_torch_ckpt.py)\s"
)
_UNITS = {"s": 1, "min": 60, "h": 3600, "days": 86400}
_MARK = re.compile(r"<!-- run: (.*?) -->\s*", re.DOTALL)


class Block(NamedTuple):
    """Commands that stand together."""

    line: int  # of the page, from 1, of the first command
    text: str
    mark: str | None  # what the comment before it says


class Mark(NamedTuple):
    """What a command takes and needs."""

    seconds: float  # expected; 0 for what serves
    serves: bool  # goes on until it is stopped
    needs: tuple[str, ...]
    without: tuple[str, ...]


class Command(NamedTuple):
    """One command of a page."""

    page: str  # path below the clone
    line: int  # from 1
    text: str  # as printed, with its line ends
    mark: Mark


def pages(root: Path = ROOT) -> list[str]:
    """Returns the pages of the clone at `root`: README, then docs/ by name."""
    found = sorted(root.glob("docs/**/*.md"))
    return ["README.md", *(path.relative_to(root).as_posix() for path in found)]


def blocks(page: str) -> list[Block]:
    """Returns the blocks of shell commands in the Markdown text `page`."""
    found, mark = [], None
    for token in MarkdownIt().parse(page):
        if token.type == "html_block":
            match = _MARK.fullmatch(token.content)
            mark = match and " ".join(match[1].split())
        elif token.type in ("fence", "code_block"):
            if _is_shell(token.info.strip(), token.content):
                fenced = token.type == "fence"
                line = token.map[0] + 1 + fenced
                found.append(Block(line, token.content, mark))
            mark = None
        elif token.nesting >= 0:
            mark = None
    return found


def _is_shell(language: str, text: str) -> bool:
    if language:
        return language in SHELL
    return any(_PROGRAM.match(line.strip() + " ") for line in text.splitlines())


def split(block: Block) -> list[tuple[int, str]]:
    """Returns the commands of a block with the line of the page where each begins.

    A command goes on to the next line after a backslash and inside what bash finds
    unfinished, such as a loop. Lines of comments alone are none.
    """
    found, begun = [], []
    for number, line in enumerate(block.text.splitlines(), block.line):
        if not begun and (not line.strip() or line.lstrip().startswith("#")):
            continue
        begun.append(line)
        text = "\n".join(begun)
        if line.endswith("\\") or not _is_complete(text):
            continue
        found.append((number - len(begun) + 1, text))
        begun = []
    if begun:
        raise ValueError(f"line {block.line}: unfinished: {begun[0]}")
    return found


def _is_complete(text: str) -> bool:
    checked = subprocess.run(["bash", "-n", "-c", text], stderr=subprocess.DEVNULL)
    return checked.returncode == 0


def read_mark(text: str) -> Mark:
    """Returns a mark's meaning; ValueError says what is wrong with it."""
    first, *others = (part.strip() for part in text.split(","))
    serves = first == "serves"
    time = re.fullmatch(r"(\d+) (s|min|h|days)", first)
    if not (serves or time):
        raise ValueError(f"{first!r}: expected a time such as '20 s', or 'serves'")
    needs, without = [], []
    for part in others:
        word, _, what = part.partition(" ")
        if word not in ("needs", "without") or not what:
            raise ValueError(f"{part!r}: expected 'needs' or 'without' and a name")
        is_path = "/" in what or "." in what
        if not is_path and (word == "without" or what not in NEEDS):
            raise ValueError(f"{what!r}: expected a path or one of {', '.join(NEEDS)}")
        (needs if word == "needs" else without).append(what)
    seconds = int(time[1]) * _UNITS[time[2]] if time else 0
    return Mark(seconds, serves, tuple(needs), tuple(without))


def commands(page: str, root: Path = ROOT) -> list[Command]:
    """Returns the commands of a page in their order.

    Raises:
      ValueError: a block has no mark, or one that fits it not; names page and line.
    """
    found = []
    for block in blocks((root / page).read_text()):
        try:
            of_block = split(block)
            if block.mark is None:
                raise ValueError("no comment <!-- run: ... --> before this block")
            marks = [read_mark(part) for part in block.mark.split(";")]
            if len(marks) == 1:
                marks *= len(of_block)
            if len(marks) != len(of_block):
                raise ValueError(f"{len(marks)} marks for {len(of_block)} commands")
        except ValueError as error:
            raise ValueError(f"{page}:{block.line}: {error}") from error
        found += [
            Command(page, line, text, mark)
            for (line, text), mark in zip(of_block, marks, strict=True)
        ]
    return found


def inline(page: str) -> list[str]:
    """Returns the commands that stand inside the sentences of the Markdown `page`."""
    found = []
    for token in MarkdownIt().enable("table").parse(page):
        for child in token.children or ():
            text = child.content.strip()
            if child.type == "code_inline" and _PROGRAM.match(text):
                found.append(text)
    return found
