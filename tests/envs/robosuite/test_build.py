import numpy as np
import pytest

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.envs.robosuite import ENGINES, build, tasks, vector
from dynvgd_jax.envs.robosuite.headless import robosuite
from dynvgd_jax.envs.robosuite.options import CONTROLLER


def test_reset_leaves_the_global_generator_alone_and_follows_the_seed(simulators):
    env = build.build_env(tasks.get_task("lift"))
    np.random.seed(7)
    expected = np.random.rand(3)
    np.random.seed(7)
    first = build.reset_env(env, 11)
    np.testing.assert_array_equal(np.random.rand(3), expected)
    build.reset_env(env, 12)
    again = build.reset_env(env, 11)
    # the same as seeding by hand right before robosuite's own reset
    np.random.seed(11)
    by_hand = env.reset()
    for key in ("object-state", "robot0_eef_pos"):
        np.testing.assert_array_equal(first[key], again[key])
        np.testing.assert_array_equal(first[key], by_hand[key])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("macro", "value"), [("SIMULATION_TIMESTEP", 0.004), ("ENABLE_NUMBA", False)]
)
def test_macros_that_change_the_physics_are_refused(monkeypatch, engine, macro, value):
    monkeypatch.setattr(robosuite.macros, macro, value)
    with pytest.raises(UserError, match=f"{macro} is {value}, expected .*macros"):
        vector.RobosuiteVectorEnv("lift", 1, None, engine=engine)


def test_the_controller_is_robosuites_default():
    default = robosuite.load_controller_config(default_controller="OSC_POSE")
    assert default == CONTROLLER


def test_an_edited_controller_file_changes_nothing(monkeypatch):
    """Users set other gains in the installation's osc_pose.json, for all programs."""
    edited = {**CONTROLLER, "kp": 20}
    for holder in (robosuite, robosuite.controllers):
        monkeypatch.setattr(holder, "load_controller_config", lambda **_: edited)
    env = build.build_env(tasks.get_task("lift"))
    np.testing.assert_array_equal(env.robots[0].controller.kp, np.full(6, 150.0))
