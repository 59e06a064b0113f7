"""Observation and success against robosuite's own, in states placed by hand."""

import numpy as np
import pytest

from dynvgd_jax.envs.robosuite import build, readout, scene, tasks
from dynvgd_jax.envs.robosuite.headless import mujoco

pytestmark = pytest.mark.usefixtures("simulators")


def built(name):
    task = tasks.get_task(name)
    env = build.build_env(task)
    record, keep = scene.make_scene(env, task)
    build.reset_env(env, 0)
    return task, env, record[0], keep


def place(env, joint, position, quat=None):
    quat = np.array([1.0, 0, 0, 0]) if quat is None else quat
    env.sim.data.set_joint_qpos(joint, np.concatenate([position, quat]))


@pytest.mark.parametrize("name", list(tasks.TASKS))
def test_observation_equals_robosuite(name):
    task, env, record, _keep = built(name)
    rng = np.random.default_rng(1)
    data = env.sim.data._data
    obs = np.empty(task.obs_dim)
    for _ in range(30):
        data.qpos[:] += rng.normal(0, 0.1, len(data.qpos))
        mujoco.mj_forward(env.sim.model._model, data)
        expected = build.observe(task, env._get_observations(force_update=True))
        readout.observe(record, obs)
        np.testing.assert_allclose(obs, expected, rtol=0, atol=5e-7)


def test_lift_success_is_four_centimetres_above_the_table():
    _, env, record, _keep = built("lift")
    for height, expected in ((0.8399, False), (0.8401, True)):
        place(env, env.cube.joints[0], [0, 0, height])
        env.sim.forward()
        assert bool(env._check_success()) == expected
        assert readout.is_success(record) == expected


def count_agreement(env, record, joint, centre, spread, draws=300):
    """Places the object around `centre`; returns how often both say success."""
    rng, solved = np.random.default_rng(0), 0
    for _ in range(draws):
        place(env, joint, centre + rng.uniform(-1, 1, 3) * spread)
        env.sim.forward()
        expected = bool(env._check_success())
        assert readout.is_success(record) == expected
        assert env.reward() == float(expected)
        solved += expected
    return solved


def test_can_success_equals_robosuite():
    _, env, record, _keep = built("can")
    # the quarter bin: x 0.1 .. 0.295, y 0.28 .. 0.525, z 0.8 .. 0.9
    centre, spread = np.array([0.2, 0.4, 0.85]), np.array([0.2, 0.2, 0.1])
    solved = count_agreement(env, record, "Can_joint0", centre, spread)
    assert 30 < solved < 270


def test_square_success_equals_robosuite():
    _, env, record, _keep = built("square")
    peg = env.sim.data.body_xpos[env.peg1_body_id]
    centre = np.array([peg[0], peg[1], 0.86])
    spread = np.array([0.05, 0.05, 0.03])
    joint = env.nuts[0].joints[0]
    solved = count_agreement(env, record, joint, centre, spread)
    assert 30 < solved < 270


@pytest.mark.parametrize("name", ["can", "square"])
def test_no_success_while_the_hand_is_at_the_object(name):
    _, env, record, _keep = built(name)
    env.sim.forward()
    hand = env.sim.data.site_xpos[env.robots[0].eef_site_id].copy()
    if name == "can":
        joint, centre = "Can_joint0", np.array([0.2, 0.4, 0.85])
    else:
        joint = env.nuts[0].joints[0]
        centre = np.append(env.sim.data.body_xpos[env.peg1_body_id][:2], 0.86)
    base = env.sim.model.body_pos[env.sim.model.body_name2id("robot0_base")]
    rng, seen = np.random.default_rng(0), set()
    start = base.copy()
    for _ in range(60):  # carry the whole robot to the object
        base[:] = start + centre - hand + rng.uniform(-0.06, 0.06, 3)
        place(env, joint, centre)
        env.sim.forward()
        expected = bool(env._check_success())
        assert readout.is_success(record) == expected
        seen.add(expected)
    assert seen == {True, False}


def test_transport_success_is_contact_in_both_bins():
    _, env, record, _keep = built("transport")
    data, seen = env.sim.data, set()
    parts = env.transport
    rng = np.random.default_rng(0)
    for _ in range(60):
        for item, at in (
            (parts.payload, parts.target_bin_pos),
            (parts.trash, parts.trash_bin_pos),
        ):
            height = rng.choice([0.0, 0.01, 0.02, 0.2, 0.3])
            lying = np.array([np.sqrt(0.5), 0.0, np.sqrt(0.5), 0.0])
            place(env, item.joints[0], at + np.array([0.0, 0.0, height]), lying)
        env.sim.forward()
        expected = (parts.payload_in_target_bin, parts.trash_in_trash_bin)
        obs = np.empty(59)
        readout.observe(record, obs)
        assert tuple(obs[-2:]) == tuple(map(float, expected))
        assert readout.is_success(record) == bool(env._check_success())
        seen.add(expected)
    assert data.ncon > 0
    assert {(True, True), (True, False), (False, True), (False, False)} == seen
