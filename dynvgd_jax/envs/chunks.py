"""What every `VectorEnv` asks of its arguments, and the scale of what it returns."""

import numpy as np

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.normalize import Normalization, normalize_obs, unnormalize_action


def check_scale(norm: Normalization | None, sizes: tuple[int, int], task: str) -> None:
    """Raises UserError unless a scale has a task's sizes, observation and action."""
    if norm is None:
        return
    found = (norm.obs_min.shape[0], norm.action_min.shape[0])
    if found != sizes:
        raise UserError(
            f"normalization has sizes (observation, action) {found}, task "
            f"{task} needs {sizes}; use the task's own file"
        )


def checked_indices(indices: np.ndarray, num_envs: int) -> np.ndarray:
    """Returns distinct numbers of environments as int; ValueError for others."""
    indices = np.asarray(indices)
    if indices.ndim != 1 or len(np.unique(indices)) != len(indices):
        raise ValueError(f"indices must be distinct numbers, found {indices}")
    if len(indices) and not 0 <= indices.min() <= indices.max() < num_envs:
        raise ValueError(f"indices {indices} outside 0..{num_envs - 1}")
    return indices.astype(int)


def raw_actions(
    norm: Normalization | None, actions: np.ndarray, count: int, action_dim: int
) -> np.ndarray:
    """Returns chunks `[count, Ta, Da]` float64 in raw units.

    Raises:
      ValueError: on wrong shapes or values that are not finite.
    """
    actions = np.asarray(actions)
    shape = actions.shape
    if len(shape) != 3 or shape[0] != count or shape[1] < 1 or shape[2] != action_dim:
        raise ValueError(
            f"actions of shape {shape}, expected ({count}, Ta >= 1, {action_dim})"
        )
    if not np.isfinite(actions).all():
        raise ValueError("actions hold NaN or infinite values")
    if norm is None:
        return np.array(actions, np.float64, order="C")
    return np.ascontiguousarray(unnormalize_action(norm, actions))


def scaled_obs(norm: Normalization | None, obs: np.ndarray) -> np.ndarray:
    """Returns raw observations `[n, Do]` as the learner sees them, float32."""
    return obs.astype(np.float32) if norm is None else normalize_obs(norm, obs)
