import numpy as np
import pytest

from dynvgd_jax.envs.robosuite import libmujoco
from dynvgd_jax.envs.robosuite.headless import mujoco

FALLING_BALL = """
<mujoco><worldbody>
  <geom type="plane" size="1 1 1"/>
  <body pos="0 0 0"><freejoint/><geom type="sphere" size="0.1"/></body>
</worldbody></mujoco>
"""


def simulator():
    model = mujoco.MjModel.from_xml_string(FALLING_BALL)
    return model, mujoco.MjData(model)


def test_unknown_functions_are_an_error():
    with pytest.raises(AttributeError):
        libmujoco.function_address("mj_no_such_function")


def test_views_follow_the_simulator():
    model, data = simulator()
    geoms = libmujoco.contact_geoms_view(model, data)
    ncon, time = libmujoco.scalar_views(data)
    assert (ncon[0], time[0]) == (1, 0.0)
    np.testing.assert_array_equal(geoms[0], [0, 1])
    data.qpos[2] = 1.0
    for _ in range(3):
        mujoco.mj_step(model, data)
    assert ncon[0] == data.ncon == 0
    assert time[0] == data.time > 0
    data.qpos[2] = 0.05
    mujoco.mj_forward(model, data)
    assert ncon[0] == data.ncon == 1
    assert data.contact.geom.ctypes.data == geoms.ctypes.data


def test_the_number_of_bounding_volumes_is_the_models():
    model, _ = simulator()
    view = libmujoco.bounding_volumes_view(model)
    assert view.shape == (1,) and view[0] == model.nbvh
    view[0] += 1
    assert view[0] == model.nbvh


def test_a_scene_without_contact_is_an_error():
    model = mujoco.MjModel.from_xml_string("<mujoco><worldbody/></mujoco>")
    with pytest.raises(RuntimeError, match="no contact"):
        libmujoco.contact_geoms_view(model, mujoco.MjData(model))


def test_arrays_at_an_address_are_the_array():
    source = np.arange(18.0)
    address = source.ctypes.data
    np.testing.assert_array_equal(libmujoco.doubles(address)[:18], source)
    np.testing.assert_array_equal(libmujoco.vectors(address)[5], source[15:])
    np.testing.assert_array_equal(libmujoco.quaternions(address)[1], source[4:8])
    np.testing.assert_array_equal(libmujoco.matrices(address)[1].ravel(), source[9:])
    counts = np.arange(4, dtype=np.int32)
    np.testing.assert_array_equal(libmujoco.integers(counts.ctypes.data)[:4], counts)
