"""Output that nobody takes ends no job."""

import errno
import io
import os
import subprocess
import sys

import pytest

from dynvgd_jax.core.output import Output


class Refusing(io.StringIO):
    def __init__(self, number):
        super().__init__()
        self.number = number

    def write(self, text):
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO])
def test_a_reader_that_went_is_told_once(monkeypatch, number):
    monkeypatch.setattr(sys, "stdout", Refusing(number))
    gone = []
    with Output(gone.append):
        print("one")
        print("two", flush=True)
        sys.stdout.writelines(["three", "four"])
    assert gone == ["stdout"]
    assert isinstance(sys.stdout, Refusing)


def test_a_full_disk_loses_lines_only(monkeypatch):
    stream = Refusing(errno.ENOSPC)
    monkeypatch.setattr(sys, "stderr", stream)
    gone = []
    with Output(gone.append):
        print("one", file=sys.stderr)
        stream.write = lambda text: io.StringIO.write(stream, text)  # space again
        print("two", file=sys.stderr)
    assert gone == [] and stream.getvalue() == "two\n"


def test_other_errors_are_not_swallowed(monkeypatch):
    monkeypatch.setattr(sys, "stdout", open(os.devnull, "w"))  # noqa: SIM115
    sys.stdout.close()
    with pytest.raises(ValueError, match="closed file"), Output():
        print("one")


def test_a_guard_in_a_guard_hears_of_it(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Refusing(errno.EPIPE))
    gone = []
    with Output(), Output(gone.append):
        print("one")
    assert gone == ["stdout"]


CHILD = """
import os, sys
from dynvgd_jax.core.output import Output
with Output():
    file = open(sys.argv[1], "w")
    print("out")
    print("err", file=sys.stderr, flush=True)
    os.write(1, b"raw"), os.write(2, b"raw")  # as a library does
    file.write("mine")
"""


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "1>&- 2>&-", "<&- 1>&- 2>&-"])
def test_closed_streams_write_into_no_file(tmp_path, closed):
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", CHILD]
        + [str(tmp_path / "file")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").read_text() == "mine"
    assert (done.stdout == "") == ("1>" in closed)
    assert done.stderr == ("" if "2>" in closed else "err\nraw")


def test_a_full_disk_at_the_end_changes_no_exit_code():
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    code = "from dynvgd_jax.core.output import Output\nwith Output():\n    print(1)"
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >/dev/full', "sh", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
