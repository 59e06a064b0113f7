"""Draws episodes of gymnasium's MuJoCo environments, off screen."""

import os

import numpy as np

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.normalize import Normalization
from dynvgd_jax.envs.base import Replay
from dynvgd_jax.envs.chunks import raw_actions
from dynvgd_jax.envs.gym.build import build_env
from dynvgd_jax.envs.gym.stepper import GymStepper
from dynvgd_jax.envs.robosuite.render import find_opengl

Pose = tuple[np.ndarray, np.ndarray]  # positions [nq] and velocities [nv] of the joints


class GymCamera:
    """Plays episodes again and draws them; see `envs.base.Camera`.

    task: which the episodes are of.
    normalization: of the actions.
    size: pixels of a side.

    Raises:
      UserError: there is no OpenGL, or the task is none of MuJoCo's.
    """

    def __init__(self, task: str, normalization: Normalization, size: int):
        # read by MuJoCo when it first draws
        os.environ["MUJOCO_GL"] = os.environ["PYOPENGL_PLATFORM"] = find_opengl()
        options = {"render_mode": "rgb_array", "width": size, "height": size}
        try:
            self._env = build_env(task, **options)
            self._simulator = self._env.unwrapped
            self._simulator.set_state  # noqa: B018, of MuJoCo's environments alone
        except (TypeError, AttributeError) as error:
            raise UserError(
                f"task {task!r} cannot be drawn, only gymnasium's MuJoCo environments"
            ) from error
        self._normalization = normalization

    def replay(self, seed: int, chunks: np.ndarray) -> Replay:
        """Returns the poses of the episode of `seed` under `chunks [C, Ta, Da]`.

        Steps are those of the evaluation, bit for bit; the replay ends with the
        episode, or where the physics broke.
        """
        size = self._env.action_space.shape[0]
        raw = raw_actions(self._normalization, chunks, len(chunks), size)
        stepper = GymStepper(self._env)
        stepper.reset(seed)
        poses, success = [self._pose()], []
        for action in raw.reshape(-1, 1, size)[: stepper.limit]:
            outcome = stepper.run(action)
            if not outcome.steps:
                break
            poses.append(self._pose())
            success.append(outcome.success[0])
        return Replay(poses, np.array(success, bool))

    def _pose(self) -> Pose:
        data = self._simulator.data
        return data.qpos.copy(), data.qvel.copy()

    def draw(self, pose: Pose) -> np.ndarray:
        """Returns `[size, size, 3]` uint8."""
        self._simulator.set_state(*pose)
        return self._env.render()

    def close(self) -> None:
        """Frees simulator and OpenGL."""
        self._env.close()
