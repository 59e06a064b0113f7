"""Agents of runs that were saved without training, one for each kind of decision."""

import pytest

from dynvgd_jax import load_agent
from tests.support.saved_run import DECISIONS, saved_run


@pytest.fixture(scope="session")
def agents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    return {
        name: load_agent(saved_run(folder / name, **changes))
        for name, changes in DECISIONS.items()
    }
