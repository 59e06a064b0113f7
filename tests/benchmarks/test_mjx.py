"""The scene that MJX steps is robosuite's, with collisions of boxes alone."""

import numpy as np
import pytest

pytest.importorskip("mujoco.mjx")

from benchmarks import mjx
from dynvgd_jax.envs.robosuite.headless import mujoco


@pytest.mark.slow
def test_boxes_alone_collide_and_the_arm_moves_as_before():
    env = mjx.lift_scene()
    model, own = mjx.of_primitives(env), env.sim.model._model
    collides = (model.geom_contype != 0) & (model.geom_conaffinity != 0)
    assert collides.sum() == len(mjx.BOXES)
    assert (model.geom_type[collides] == mujoco.mjtGeom.mjGEOM_BOX).all()
    # a box around a finger's mesh is centimetres large and where the finger is
    finger = model.geom("gripper0_finger1_collision").id
    assert (0.004 < model.geom_size[finger]).all() and model.geom_size[
        finger
    ].max() < 0.1
    # nothing touches the arm: it moves as in robosuite's scene
    arm = env.robots[0]._ref_joint_pos_indexes
    ends = []
    for used in (model, own):
        data = mjx.held_up(used, env)
        mujoco.mj_step(used, data, 100)
        ends.append(data.qpos[arm].copy())
    np.testing.assert_allclose(*ends, atol=1e-6)
