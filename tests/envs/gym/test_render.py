"""Pictures of gymnasium's scenes; skipped where the machine has no OpenGL."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.envs import base
from dynvgd_jax.envs.gym.vector import GymVectorEnv
from dynvgd_jax.envs.robosuite import render

SIZE = 64


@pytest.fixture
def opengl():
    try:
        render.find_opengl()
    except UserError as error:
        pytest.skip(str(error))


def test_an_episode_is_played_again_and_drawn(opengl):
    chunks = np.random.default_rng(0).uniform(-0.5, 0.5, (60, 4, 3)).astype(np.float32)
    env = GymVectorEnv("hopper", 1, None, num_threads=1)
    only, steps = np.array([0]), 0
    env.reset(only, [11])
    for chunk in chunks:
        result = env.step(only, chunk[None])
        steps += int(result.steps[0])
        if result.terminated[0]:
            break
    data = env._steppers[0].env.unwrapped.data
    camera = base.make_camera(ConfigDict({"task": "hopper"}), None, SIZE)
    found = camera.replay(11, chunks)
    assert len(found.poses) == steps + 1 < 240 and len(found.success) == steps
    np.testing.assert_array_equal(found.poses[-1][0], data.qpos)
    np.testing.assert_array_equal(found.poses[-1][1], data.qvel)
    first, last = (camera.draw(found.poses[i]) for i in (0, -1))
    assert first.shape == (SIZE, SIZE, 3) and first.dtype == np.uint8
    assert np.abs(first.astype(int) - last).mean() > 1
    np.testing.assert_array_equal(camera.draw(found.poses[0]), first)
    camera.close()
    env.close()


def test_what_is_not_mujocos_is_refused(opengl):
    with pytest.raises(UserError, match="cannot be drawn"):
        base.make_camera(ConfigDict({"task": "gym:Pendulum-v1"}), None, SIZE)
