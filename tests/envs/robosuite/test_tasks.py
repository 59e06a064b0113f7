import subprocess
import sys

import pytest

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.envs.base import EnvSizes
from dynvgd_jax.envs.robosuite import build, scene, tasks
from dynvgd_jax.envs.robosuite.task import Reading


def test_table_holds_the_published_sizes():
    assert {name: task.sizes for name, task in tasks.TASKS.items()} == {
        "lift": EnvSizes(19, 7, 4, 300),
        "can": EnvSizes(23, 7, 4, 300),
        "square": EnvSizes(23, 7, 4, 400),
        "transport": EnvSizes(59, 14, 8, 800),
    }


def test_a_task_is_registered_under_its_own_name():
    assert [task.name for task in tasks.TASKS.values()] == list(tasks.TASKS)


def test_tasks_import_neither_simulator_nor_compiler():
    code = (
        "import sys, dynvgd_jax.envs.robosuite.tasks\n"
        "assert not {'mujoco', 'robosuite', 'numba', 'jax'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_file_whose_readings_miss_the_size_is_refused(simulators):
    task = tasks.get_task("lift")
    env = build.build_env(task)
    short = task._replace(
        parts=lambda env: task.parts(env)._replace(readings=(Reading(0, 1),))
    )
    with pytest.raises(ValueError, match="lift: readings of size 12, not 19"):
        scene.make_scene(env, short)
    many = task._replace(
        obs_dim=9 + 3 * 17,
        parts=lambda env: task.parts(env)._replace(readings=17 * (Reading(0, 1),)),
    )
    with pytest.raises(ValueError, match="parts are more"):
        scene.make_scene(env, many)


def test_unknown_task_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'square'"):
        tasks.get_task("sqare")
    for other in ("hopper", "gym:Ant-v5", "examples.point_mass:reach"):
        with pytest.raises(UserError, match=r"none of robosuite's.*module with TASKS"):
            tasks.get_task(other)
