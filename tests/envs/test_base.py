"""The table of simulators: lazy, by task, with errors that help."""

import subprocess
import sys
import types

import pytest
from ml_collections import ConfigDict

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.envs import base


def test_tasks_are_known_without_a_simulator_or_jax():
    code = (
        "import sys\n"
        "from dynvgd_jax.envs import base, rollout\n"
        "assert base.task_names()[:4] == ('lift', 'can', 'square', 'transport')\n"
        "assert base.task_names()[4:] == ('hopper', 'walker2d', 'halfcheetah')\n"
        "assert base.task_sizes('hopper') == (11, 3, 4, 1000)\n"
        "heavy = {'mujoco', 'robosuite', 'gymnasium', 'numba', 'jax'}\n"
        "assert not heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_task_chooses_the_simulator(monkeypatch):
    """A new simulator is a module and a line in the table."""
    module = types.ModuleType("elsewhere")
    module.task_names = lambda: ("push", "pull")
    module.make_env = lambda *arguments: arguments
    monkeypatch.setitem(sys.modules, "elsewhere", module)
    monkeypatch.setitem(base.SIMULATORS, "toy", "elsewhere")
    assert base.task_names()[-2:] == ("push", "pull")
    config = ConfigDict({"task": "pull"})
    assert base.make_env(config, None, 3) == (config, None, 3)


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(UserError, match=r"'sqare'.*did you mean 'square'"):
        base.make_env(ConfigDict({"task": "sqare"}), None, 1)


def test_robosuites_environments_come_as_the_configuration_says():
    config = ConfigDict({"task": "lift", "env": {"engine": "exact", "num_threads": 3}})
    env = base.make_env(config, None, 1)
    try:
        assert (env.task.name, env.engine, env.num_threads) == ("lift", "exact", 3)
        assert env.num_envs == 1 and env.sizes == (19, 7, 4, 300)
    finally:
        env.close()
