"""Runs Python on a machine that lacks something: in a mount namespace of its own."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.support.command import ROOT

# What loading a library that is not there looks like: its file cannot be read as one.
HIDE_GRAPHICS = """
for file in $(ldconfig -p | awk '/lib(GL|EGL|GLX|OSMesa|glfw)/ {print $NF}'); do
  mount --bind /dev/null "$file"
done
"""
READ_ONLY = """
for folder in "$CODE" "$PACKAGES"; do
  mount --bind "$folder" "$folder"
  mount -o remount,bind,ro "$folder"
done
"""


def run(preparation: str, arguments: list[str], **variables):
    """Runs Python with `arguments` after the shell lines of `preparation`.

    Skips the test where the system allows no namespaces (some containers).
    """
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here")
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec"]
    probe = "mount --bind /dev/null /etc/hostname"
    if subprocess.run([*namespace, probe], capture_output=True).returncode:
        pytest.skip("mount namespaces are not allowed here")
    packages = os.path.dirname(os.path.dirname(pytest.__file__))
    places = {"CODE": str(ROOT), "PACKAGES": packages, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*namespace, preparation + '\nexec "$0" "$@"', sys.executable, *arguments],
        env=os.environ | places | variables,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
