"""Two runs never share a folder, and a dead one leaves no lock."""

import os
import signal
import subprocess
import sys

import pytest

from configs import base
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.runs.lock import FolderLock
from dynvgd_jax.runs.metrics import MetricsLog

HOLDER = """
import sys, time
from dynvgd_jax.runs.lock import FolderLock

lock = FolderLock(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


def test_the_second_of_one_process_is_refused_until_the_first_lets_go(tmp_path):
    first = FolderLock(tmp_path)
    with pytest.raises(UserError, match=f"in use by process {os.getpid()};"):
        FolderLock(tmp_path)
    first.release()
    first.release()
    FolderLock(tmp_path).release()


def test_a_killed_process_leaves_no_lock(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"in use by process {holder.pid};"):
            MetricsLog(tmp_path, base.get_config())
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
        holder.send_signal(signal.SIGKILL)
        holder.wait(timeout=60)
    finally:
        holder.kill()
        holder.stdout.close()
    MetricsLog(tmp_path, base.get_config()).close()


def test_a_closed_run_frees_its_folder(tmp_path):
    with MetricsLog(tmp_path, base.get_config()):
        pass
    FolderLock(tmp_path).release()
