"""Pictures of robosuite's scenes; skipped where the machine has no OpenGL."""

import numpy as np
import pytest

from configs import base
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.envs import base as envs_base
from dynvgd_jax.envs.robosuite import render
from dynvgd_jax.envs.robosuite.vector import RobosuiteVectorEnv

SIZE = 64


@pytest.fixture
def camera(simulators):
    try:
        render.find_opengl()
    except UserError as error:
        pytest.skip(str(error))
    config = base.get_config()
    config.task = "lift"
    camera = envs_base.make_camera(config, None, SIZE)
    yield camera
    camera.close()


def red(picture):
    """Pixels of Lift's cube."""
    r, g, b = (picture[..., i].astype(int) for i in range(3))
    return (r > 2 * g) & (r > 2 * b) & (r > 60)


def test_an_episode_of_lift(camera):
    chunks = np.zeros((3, 4, 7))
    chunks[..., 2], chunks[..., 6] = -0.8, 1.0  # down, closing
    found = camera.replay(11, chunks)
    assert len(found.poses) == 13 and found.success.shape == (12,)
    assert not found.success.any()

    env = RobosuiteVectorEnv("lift", 1, None, num_threads=1)
    only = np.array([0])
    env.reset(only, np.array([11]))
    for number, chunk in enumerate(chunks):
        env.step(only, chunk[None])
        qpos = env.envs[0].sim.data._data.qpos
        np.testing.assert_array_equal(found.poses[4 * (number + 1)].qpos, qpos)
    env.close()

    first, last = (camera.draw(found.poses[i]) for i in (0, 12))
    assert first.shape == (SIZE, SIZE, 3) and first.dtype == np.uint8
    rows, columns = np.nonzero(red(first))
    assert len(rows) >= 6  # the cube, near the middle of the picture
    assert abs(rows.mean() - SIZE / 2) < 12 and abs(columns.mean() - SIZE / 2) < 12
    # the arm came down, and a picture depends on its pose alone
    assert np.abs(first.astype(int) - last).mean() > 3
    np.testing.assert_array_equal(camera.draw(found.poses[0]), first)


def test_a_pose_holds_what_a_reset_moves(camera):
    """Episodes are drawn in any order, whatever was played last."""
    still = np.zeros((1, 1, 7))
    one, other = camera.replay(1, still), camera.replay(2, still)
    first = camera.draw(one.poses[0])
    assert (camera.draw(other.poses[0]) != first).any()
    again = camera.replay(1, still)
    np.testing.assert_array_equal(camera.draw(again.poses[0]), first)


@pytest.fixture
def probes(monkeypatch):
    """Nothing works; the list of what was tried."""
    tried = []
    monkeypatch.setattr(render, "_works", lambda name: tried.append(name))
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    render.find_opengl.cache_clear()
    yield tried
    render.find_opengl.cache_clear()


def test_without_opengl_one_line_names_the_packages(probes, monkeypatch):
    config = base.get_config()
    with pytest.raises(UserError) as caught:  # before any simulator is built
        envs_base.make_camera(config, None, SIZE)
    line = "apt-get install libosmesa6 or apt-get install libegl1"
    assert line in str(caught.value) and "\n" not in str(caught.value)
    assert probes == ["egl", "osmesa"]
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    with pytest.raises(
        UserError, match=r"tried osmesa\).*: apt-get install libosmesa6$"
    ):
        render.find_opengl()
    assert probes == ["egl", "osmesa", "osmesa"]


def test_a_probe_that_dies_found_nothing():
    assert not render._works("no_such_opengl")
