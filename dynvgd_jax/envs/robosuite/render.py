"""Draws robosuite's scenes without a screen, by EGL or OSMesa; only films need it."""

import functools
import importlib
import os
import subprocess
import sys
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.normalize import Normalization
from dynvgd_jax.envs.base import Replay
from dynvgd_jax.envs.robosuite.headless import mujoco
from dynvgd_jax.envs.robosuite.task import View
from dynvgd_jax.envs.robosuite.vector import RobosuiteVectorEnv

# OpenGL without a screen -> Debian's package. EGL first: it finds a graphics card.
PACKAGES = {"egl": "libegl1", "osmesa": "libosmesa6"}
_VISIBLE_GROUP = 1  # robosuite's visual geoms; group 0 are those that collide
_MAX_GEOMS = 2000
_SAMPLES = 2  # a pixel, against jagged edges
_PROBE = """
from mujoco.{name} import GLContext
context = GLContext(64, 64)
context.make_current()
from OpenGL import GL
assert GL.glGetString(GL.GL_VERSION)
context.free()
"""
_PROBE_LIMIT_S = 60.0


class Pose(NamedTuple):
    """What a picture depends on."""

    qpos: np.ndarray  # [nq] joint positions
    body_pos: np.ndarray  # [nbody, 3] m, which some resets move
    body_quat: np.ndarray  # [nbody, 4]


@functools.cache
def find_opengl() -> str:
    """Returns which of PACKAGES works here; MUJOCO_GL may name one of them.

    Tried in a process of its own: PyOpenGL decides once per process, and a broken
    driver ends the one that it breaks in.

    Raises:
      UserError: none does.
    """
    wanted = os.environ.get("MUJOCO_GL", "").lower()
    names = (wanted,) if wanted in PACKAGES else tuple(PACKAGES)
    for name in names:
        if _works(name):
            return name
    packages = " or ".join(f"apt-get install {PACKAGES[n]}" for n in reversed(names))
    raise UserError(
        f"found no OpenGL that draws without a screen (tried {', '.join(names)}), "
        f"expected one for videos; on Debian and Ubuntu: {packages}"
    )


def _works(name: str) -> bool:
    variables = {"MUJOCO_GL": name, "PYOPENGL_PLATFORM": name}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE.format(name=name)],
            env=os.environ | variables,
            capture_output=True,
            timeout=_PROBE_LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


class Renderer:
    """Draws poses of one MuJoCo model; belongs to the thread that made it.

    model: an mjModel; drawing writes what `Pose` holds of it.
    view: where it is looked from.
    size: pixels of a side.
    """

    def __init__(self, model: Any, view: View, size: int):
        os.environ["PYOPENGL_PLATFORM"] = name = find_opengl()
        try:
            backend = importlib.import_module(f"mujoco.{name}")
        except ImportError as error:  # another part has loaded OpenGL otherwise
            raise UserError(f"cannot draw by {name}: {error}") from error
        self._model, self._data = model, mujoco.MjData(model)
        self._size = size
        self._opengl = backend.GLContext(size, size)
        self._opengl.make_current()
        model.vis.quality.offsamples = _SAMPLES
        font = mujoco.mjtFontScale.mjFONTSCALE_100.value
        self._context = mujoco.MjrContext(model, font)
        buffer = mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value
        mujoco.mjr_setBuffer(buffer, self._context)
        self._scene = mujoco.MjvScene(model, maxgeom=_MAX_GEOMS)
        # they take software three quarters of its time
        for flag in (
            mujoco.mjtRndFlag.mjRND_SHADOW,
            mujoco.mjtRndFlag.mjRND_REFLECTION,
        ):
            self._scene.flags[flag] = False
        self._options = mujoco.MjvOption()
        self._options.geomgroup[:] = 0
        self._options.geomgroup[_VISIBLE_GROUP] = 1
        self._options.sitegroup[:] = 0
        self._camera = mujoco.MjvCamera()
        self._camera.lookat[:] = view.lookat_m
        self._camera.distance = view.distance_m
        self._camera.azimuth = view.azimuth_deg
        self._camera.elevation = view.elevation_deg

    def draw(self, pose: Pose) -> np.ndarray:
        """Returns `[size, size, 3]` uint8."""
        self._model.body_pos[:] = pose.body_pos
        self._model.body_quat[:] = pose.body_quat
        self._data.qpos[:] = pose.qpos
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)
        what = mujoco.mjtCatBit.mjCAT_ALL.value
        options, camera = self._options, self._camera
        mujoco.mjv_updateScene(
            self._model, self._data, options, None, camera, what, self._scene
        )
        image = np.empty((self._size, self._size, 3), np.uint8)
        place = mujoco.MjrRect(0, 0, self._size, self._size)
        mujoco.mjr_render(place, self._scene, self._context)
        mujoco.mjr_readPixels(image, None, place, self._context)
        return image[::-1]  # OpenGL begins at the bottom

    def close(self) -> None:
        """Frees what OpenGL holds."""
        self._context.free()
        self._opengl = None  # its own end frees it


class RobosuiteCamera:
    """Plays episodes again and draws them; see `envs.base.Camera`.

    config: `task` and `env.engine`, which the episodes were played with.
    normalization: of the actions.
    size: pixels of a side.

    Raises:
      UserError: there is no OpenGL, see `find_opengl`.
    """

    def __init__(self, config: ConfigDict, normalization: Normalization, size: int):
        find_opengl()
        self._env = RobosuiteVectorEnv(
            config.task, 1, normalization, engine=config.env.engine, num_threads=1
        )
        self._sim = self._env.envs[0].sim
        self._renderer = Renderer(self._sim.model._model, self._env.task.view, size)

    def replay(self, seed: int, chunks: np.ndarray) -> Replay:
        """Returns the poses of the episode of `seed` under `chunks [C, Ta, Da]`.

        Steps are those of the evaluation, bit for bit, one control step at a time; the
        replay ends where the physics broke.
        """
        only = np.array([0])
        self._env.reset(only, np.array([seed]))
        poses, success = [self._pose()], []
        for action in chunks.reshape(-1, 1, 1, chunks.shape[-1]):
            result = self._env.step(only, action)
            if result.fault[0]:
                break
            poses.append(self._pose())
            success.append(result.success[0, 0])
        return Replay(poses, np.array(success, bool))

    def _pose(self) -> Pose:
        model = self._sim.model._model
        arrays = (self._sim.data._data.qpos, model.body_pos, model.body_quat)
        return Pose(*map(np.copy, arrays))

    def draw(self, pose: Pose) -> np.ndarray:
        """Returns `[size, size, 3]` uint8."""
        return self._renderer.draw(pose)

    def close(self) -> None:
        """Frees simulator and OpenGL."""
        self._renderer.close()
        self._env.close()
