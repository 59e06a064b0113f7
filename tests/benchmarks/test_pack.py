"""The pack for machines without a package index holds all that the tasks load."""

import os
import subprocess
import sys
import tarfile

import pytest

from benchmarks import pack
from dynvgd_jax.core.errors import UserError

# In a process that finds robosuite in the pack first: every task steps.
USE = """
import numpy as np
from dynvgd_jax.envs.robosuite.headless import robosuite
from dynvgd_jax.envs.robosuite import build, tasks
import ml_collections, tensorboardX
for name, task in tasks.TASKS.items():
    env = build.build_env(task)
    build.reset_env(env, 0)
    env.step(np.zeros(task.action_dim))
print(robosuite.__file__, ml_collections.__file__, tensorboardX.__file__, sep="\\n")
"""


@pytest.mark.slow
def test_every_task_steps_from_a_small_pack(tmp_path, capsys):
    output, folder = tmp_path / "pack.tar.gz", tmp_path / "pack"
    pack.main([f"--output={output}"])
    assert output.stat().st_size < 20e6
    assert f"{output}: " in capsys.readouterr().out
    with tarfile.open(output) as tar:
        tar.extractall(folder, filter="data")
    assert list(folder.glob("robosuite-*.dist-info/METADATA"))
    paths = os.pathsep.join([str(folder), os.getcwd()])
    environment = os.environ | {"PYTHONPATH": paths}
    run = subprocess.run(
        [sys.executable, "-c", USE], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert all(line.startswith(str(folder)) for line in run.stdout.splitlines()[-3:])


def test_a_compiled_package_is_refused():
    with pytest.raises(UserError, match=r"h5py is compiled .*: give a wheel"):
        pack.package_files("h5py")
    with pytest.raises(UserError, match="no_such_package is not installed"):
        pack.package_files("no_such_package")
