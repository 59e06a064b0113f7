"""Exit codes and lines of a command."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dynvgd_jax import __version__
from dynvgd_jax.core.command import run_command, run_main
from dynvgd_jax.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("launch", "convert", "audit", "evaluate", "report")


def failing(error):
    def body():
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("found 1,\n expected 2"), 2, "x.py: found 1, expected 2"),
        (OSError(errno.ENOSPC, "No space left", "f"), 2, "No space left: 'f'; none"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "f"), 2, "'f'; none"),
        (ModuleNotFoundError("", name="not_here.part"), 2, "x.py: no package not_here"),
        (MemoryError(), 2, "x.py: out of memory: no more is left; buy"),
        (RuntimeError("RESOURCE_EXHAUSTED: 9 GB"), 2, "EXHAUSTED: 9 GB; buy"),
        (KeyboardInterrupt(), 130, "x.py: interrupted, none was written"),
    ],
)
def test_what_a_user_can_act_on_is_one_line(capsys, error, code, line):
    found = run_command(
        "x.py", failing(error), memory_advice="buy", disk_note="none was written"
    )
    text = capsys.readouterr().err
    assert found == code and line in text and text.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("a bug"),
        OSError(errno.EBADF, "a bug"),
        KeyError("a bug"),
        ModuleNotFoundError("a bug", name="dynvgd_jax.core.gone"),
        ModuleNotFoundError("another release", name="jax.not_here"),
        ModuleNotFoundError("a bug"),
    ],
)
def test_bugs_keep_their_traceback(error):
    with pytest.raises(type(error)):
        run_command("x.py", failing(error))


def test_success_is_0(capsys):
    assert run_command("x.py", lambda: None) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--help"], 0, "how to\n"),
        (["-help"], 0, "how to\n"),
        (["--bad", "-h"], 0, "how to\n"),
        (["runs", "--version"], 0, f"dynvgd_jax {__version__}\n"),
        (["-version"], 0, f"dynvgd_jax {__version__}\n"),
        (["h"], 2, ""),  # a folder of that name
        (["--output=--help"], 2, ""),
    ],
)
def test_help_and_version_come_before_mistakes(capsys, arguments, code, said):
    body = failing(UserError("not here"))
    found = run_main("x.py", ["x.py", *arguments], lambda: "how to", body)
    assert (found, capsys.readouterr().out) == (code, said)


def test_a_stuck_thread_does_not_keep_the_process():
    code = """
import threading, time
from dynvgd_jax.core.command import run_command
from dynvgd_jax.core.errors import StuckError
threading.Thread(target=time.sleep, args=(600,)).start()
def body():
    raise StuckError("environment 3 does not come back")
run_command("x.py", body)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr == "x.py: environment 3 does not come back\n"


@pytest.mark.parametrize(
    "command",
    [
        ["launch.py"],
        ["convert_torch_ckpt.py"],
        *(["-m", f"dynvgd_jax.{name}"] for name in COMMANDS),
    ],
)
def test_an_environment_without_the_packages_is_one_line(command):
    """Python's own, without those that are installed beside it."""
    done = subprocess.run(
        [sys.executable, "-S", *command, "--help"],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert f"{command[-1]}: no package absl in this environment" in done.stderr
