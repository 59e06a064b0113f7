"""The names of a task's observation are robosuite's own, in its order."""

import numpy as np
import pytest

from dynvgd_jax.core.observation import LAYOUTS, entry_name, observation_slices
from dynvgd_jax.envs.robosuite.build import build_env, reset_env
from dynvgd_jax.envs.robosuite.tasks import TASKS


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_layouts_are_robosuites(name):
    task = TASKS[name]
    env = build_env(task)
    seen = reset_env(env, 0)
    env.close()
    slices = observation_slices(name)
    assert max(s.stop for s in slices.values()) == task.obs_dim
    whole = np.concatenate([np.ravel(seen[key]) for key in task.obs_keys])
    for observable, entries in slices.items():
        np.testing.assert_array_equal(whole[entries], np.ravel(seen[observable]))


def test_names_by_hand():
    assert entry_name("square", 11) == "SquareNut_pos z"
    assert entry_name("square", 6) == "robot0_eef_quat w"
    assert entry_name("can", 8) == "robot0_gripper_qpos[1]"
    assert entry_name("transport", 58) == "trash_in_trash_bin"
    assert entry_name("square", 99) == entry_name("reach", 0) == ""
