"""Files and folders that appear complete or not at all: what an error leaves behind."""

import errno
import os
import subprocess
import sys

import pytest

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.runs.durable import (
    AppendFile,
    held,
    new_file,
    new_folder,
    remove_abandoned,
    write_durably,
)
from dynvgd_jax.runs.lock import LOCK_FILE, FolderLock
from dynvgd_jax.runs.metrics import MetricsLog
from tests.support.tiny_run import tiny

NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG)


@pytest.fixture
def failing(monkeypatch):
    """failing(name, number): from then on `os.name` fails; 0 mends it."""

    def fail(name, number):
        if number == 0:
            monkeypatch.undo()
            return

        def call(*arguments):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, name, call)

    return fail


def fill(path, fails):
    with new_folder(path) as partial:
        (partial / "x").write_text("x")
        if fails:
            raise ValueError("refused")


def test_parents_made_for_a_folder_go_with_it(tmp_path):
    (tmp_path / "old").mkdir()
    with pytest.raises(ValueError, match="refused"):
        fill(tmp_path / "old" / "aa" / "bb" / "cc", fails=True)
    assert [p.name for p in tmp_path.rglob("*")] == ["old"]
    fill(tmp_path / "old" / "aa" / "cc", fails=False)
    with pytest.raises(ValueError, match="refused"):
        fill(tmp_path / "old" / "aa" / "bb" / "dd", fails=True)
    names = sorted(p.name for p in tmp_path.rglob("*"))
    assert names == ["aa", "cc", "old", "x"]


def test_a_parent_that_somebody_else_uses_stays(tmp_path):
    with pytest.raises(ValueError, match="refused"), new_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "other").write_text("x")
        raise ValueError("refused")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["other"]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_file_that_cannot_be_written_leaves_the_old_one(
    tmp_path, failing, call, number
):
    write_durably(tmp_path / "a.json", b"old")
    failing(call, number)
    with pytest.raises(OSError, match=os.strerror(number)):
        write_durably(tmp_path / "a.json", b"new")
    failing(call, 0)
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_bytes() == b"old"


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("new", [new_folder, new_file])
def test_what_cannot_be_written_leaves_nothing(tmp_path, failing, new, number):
    failing("fsync", number)
    with pytest.raises(OSError, match=os.strerror(number)), new(tmp_path / "x") as got:
        if new is new_folder:
            (got / "inside").write_text("x")
        else:
            got.write(b"x")
    failing("fsync", 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", NUMBERS)
def test_what_the_disk_forgot_after_a_failed_sync_is_written_again(
    tmp_path, failing, number
):
    """Linux drops pages that it could not write, and the next fsync succeeds."""
    file = AppendFile(tmp_path / "grows")
    file.append(b"safe,")
    assert file.flush() == 5
    file.append(b"lost,")
    failing("fsync", number)
    with pytest.raises(OSError, match=os.strerror(number)):
        file.flush()
    failing("fsync", 0)
    os.pwrite(file._descriptor, bytes(5), 5)  # as the disk has it: zeros
    file.append(b"later")
    assert file.flush() == 15
    assert (tmp_path / "grows").read_bytes() == b"safe,lost,later"
    file.close()


def test_a_file_that_fails_only_when_it_is_closed_says_so(tmp_path, failing, caplog):
    """As on network file systems."""
    file = AppendFile(tmp_path / "grows")
    descriptor = file._descriptor
    failing("close", errno.EIO)
    file.close()
    failing("close", 0)
    os.close(descriptor)
    assert "may lack its end: Input/output error" in caplog.text


@pytest.mark.parametrize("number", [*NUMBERS, errno.ENOLCK])
@pytest.mark.parametrize("call", ["ftruncate", "pwrite"])
def test_a_lock_that_cannot_be_written_is_not_kept(tmp_path, failing, call, number):
    failing(call, number)
    with pytest.raises(OSError, match=os.strerror(number)):
        FolderLock(tmp_path)
    failing(call, 0)
    with FolderLock(tmp_path):
        assert (tmp_path / LOCK_FILE).read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("number", NUMBERS)
def test_a_run_that_cannot_begin_is_one_line_and_frees_its_folder(
    tmp_path, failing, number
):
    failing("fsync", number)
    with pytest.raises(UserError, match=os.strerror(number)) as caught:
        MetricsLog(tmp_path / "run", tiny("x"))
    failing("fsync", 0)
    assert "cannot write to" in str(caught.value) and "\n" not in str(caught.value)
    MetricsLog(tmp_path / "run", tiny("x")).close()


def test_what_nobody_holds_any_more_is_deleted(tmp_path):
    """A killed process holds nothing: the lock ends with it."""
    for name in ("..a.1.partial", "..a.2.partial", "..a.3.partial", "..b.1.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "..a.4.partial").symlink_to(tmp_path / "elsewhere")
    code = (
        "import pathlib, sys, time\n"
        "from dynvgd_jax.runs.durable import held\n"
        "with held(pathlib.Path(sys.argv[1])) as is_ours:\n"
        "    print(is_ours, flush=True)\n"
        "    time.sleep(600)\n"
    )
    argv = [sys.executable, "-c", code, str(tmp_path / "..a.3.partial")]
    with (
        subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process,
        held(tmp_path / "..a.2.partial") as is_ours,
    ):
        assert process.stdout.readline() == "True\n" and is_ours
        with held(tmp_path / "..a.3.partial") as is_ours:
            assert not is_ours
        remove_abandoned(tmp_path, "..a.?.partial")
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {
            *("..a.2.partial", "..a.3.partial", "..a.4.partial", "..b.1.partial"),
            "elsewhere",
        }
        process.kill()
    remove_abandoned(tmp_path, "..a.?.partial")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"..a.4.partial", "..b.1.partial", "elsewhere"}
    with held(tmp_path / "gone") as is_ours:
        assert not is_ours
