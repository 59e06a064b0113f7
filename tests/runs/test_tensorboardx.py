"""What a run's start imports."""

import subprocess
import sys

import pytest

from tests.support import command

PROGRAM = """
import sys
import dynvgd_jax.launch, dynvgd_jax.training.loop
found = {"torch", "scipy.stats", "scipy.optimize"} & set(sys.modules)
assert not found, found
assert "tensorboardX" in sys.modules
import torch  # hidden from tensorboardX, not from others
"""


@pytest.mark.slow
def test_neither_torch_nor_statistics():
    """Each takes a second, and hardly a run needs them."""
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, cwd=command.ROOT)
