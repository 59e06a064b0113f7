"""The scale between raw robosuite values and the [-1, 1] the policy sees (NumPy)."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.untrusted import load_npz

SPAN_FLOOR = 1e-6  # keeps constant observation entries finite; part of DPPO's formula


class Normalization(NamedTuple):
    """Smallest and largest value of each entry over the demonstrations."""

    obs_min: np.ndarray  # [Do] float32
    obs_max: np.ndarray  # [Do] float32
    action_min: np.ndarray  # [Da] float32
    action_max: np.ndarray  # [Da] float32


def normalize_obs(norm: Normalization, obs: np.ndarray) -> np.ndarray:
    """Returns `2 * ((obs - min) / (max - min + 1e-6) - 0.5)`, float32, not clipped.

    obs: [..., Do] raw. Source of the formula: DPPO's robomimic wrapper. The
    arithmetic runs in float64 and is rounded once.
    """
    low = np.asarray(norm.obs_min, np.float64)
    span = np.asarray(norm.obs_max, np.float64) - low + SPAN_FLOOR
    return (2.0 * ((np.asarray(obs) - low) / span - 0.5)).astype(np.float32)


def unnormalize_obs(norm: Normalization, obs_n: np.ndarray) -> np.ndarray:
    """Returns the raw observation [..., Do] float64, the inverse of normalize_obs."""
    low = np.asarray(norm.obs_min, np.float64)
    span = np.asarray(norm.obs_max, np.float64) - low + SPAN_FLOOR
    return (np.asarray(obs_n, np.float64) / 2.0 + 0.5) * span + low


def normalize_action(norm: Normalization, action: np.ndarray) -> np.ndarray:
    """Returns the action [..., Da] float32 in [-1, 1] for a raw one.

    Uses DPPO's data-set formula, with 1e-6 in the divisor; `unnormalize_action`
    has no such term, so that the two invert each other to about 1e-6.
    """
    low = np.asarray(norm.action_min, np.float64)
    span = np.asarray(norm.action_max, np.float64) - low + SPAN_FLOOR
    return (2.0 * ((np.asarray(action) - low) / span - 0.5)).astype(np.float32)


def unnormalize_action(norm: Normalization, action_n: np.ndarray) -> np.ndarray:
    """Returns `(a_n + 1) / 2 * (max - min) + min`, float64 [..., Da], not clipped."""
    low = np.asarray(norm.action_min, np.float64)
    span = np.asarray(norm.action_max, np.float64) - low
    return (np.asarray(action_n, np.float64) + 1.0) / 2.0 * span + low


def load_normalization(path: str | Path) -> Normalization:
    """Reads DPPO's `normalization.npz`.

    Raises:
      UserError: where the file is missing, is no npz, lacks a key, or holds vectors
        that are empty or whose sizes disagree.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; expected a normalization.npz with the keys "
            f"{', '.join(Normalization._fields)}"
        )
    values = load_npz(path, Normalization._fields)
    missing = [key for key in Normalization._fields if key not in values]
    if missing:
        raise UserError(
            f"{path}: the keys {', '.join(missing)} are missing; expected "
            f"{', '.join(Normalization._fields)}"
        )
    wrong = [key for key, value in values.items() if value.dtype.kind not in "fiub"]
    if wrong:
        raise UserError(f"{path}: {', '.join(wrong)} hold no numbers; write it again")
    with np.errstate(over="ignore", invalid="ignore"):  # infinity is refused below
        vectors = {k: np.asarray(v, np.float32) for k, v in values.items()}
    norm = Normalization(**vectors)
    shapes = {k: v.shape for k, v in norm._asdict().items()}
    if (
        any(len(shape) != 1 or shape == (0,) for shape in shapes.values())
        or norm.obs_min.shape != norm.obs_max.shape
        or norm.action_min.shape != norm.action_max.shape
    ):
        raise UserError(
            f"{path}: expected vectors of equal length, at least 1, found {shapes}"
        )
    if not all(np.isfinite(vector).all() for vector in norm):
        raise UserError(f"{path} holds values that are not finite; write it again")
    if np.any(norm.obs_min > norm.obs_max) or np.any(norm.action_min > norm.action_max):
        raise UserError(f"{path}: some smallest value is above its largest one")
    return norm


def save_normalization(path: str | Path, norm: Normalization) -> None:
    """Writes `norm` as DPPO's npz: float32 vectors under the field names."""
    np.savez(path, **{k: np.asarray(v, np.float32) for k, v in norm._asdict().items()})
