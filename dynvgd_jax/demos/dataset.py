"""A demonstration file as training data: normalised, split, cut into chunks."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.normalize import (
    Normalization,
    load_normalization,
    normalize_action,
    normalize_obs,
)
from dynvgd_jax.core.untrusted import sha256
from dynvgd_jax.demos.files import fit_normalization, read_dppo, read_robomimic
from dynvgd_jax.diffusion import cloning


class Dataset(NamedTuple):
    """Demonstrations, normalised, all episodes one after another."""

    obs: np.ndarray  # [steps, Do] float32
    actions: np.ndarray  # [steps, Da] float32
    rewards: np.ndarray  # [steps] float32, 0 where the file has none
    lengths: np.ndarray  # [episodes] int64
    normalization: Normalization
    source: dict[str, str]  # file name and SHA-256, for the policy's metadata


def load_dataset(path: str | Path, task: str) -> Dataset:
    """Reads DPPO's `train.npz` (with `normalization.npz` beside it) or robomimic HDF5.

    A robomimic file holds raw values; its scale is fitted to all of its episodes.

    Raises:
      UserError: the file is missing, damaged, or of other sizes than its normalisation.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"found no demonstrations at {path}; make them with: python launch.py "
            f"--config=configs/{task}_demos.py --workdir=data/{task}, or set dataset"
        )
    source = {"file": path.name, "sha256": sha256(path)}
    if is_hdf5(path):
        episodes = read_robomimic(path)
        norm = fit_normalization(episodes)
        obs = normalize_obs(norm, np.concatenate([e.obs for e in episodes]))
        actions = np.concatenate([e.actions for e in episodes])
        lengths = np.array([len(e.actions) for e in episodes], np.int64)
        rewards = np.concatenate([e.rewards for e in episodes])
        actions = normalize_action(norm, actions)
        return Dataset(obs, actions, rewards, lengths, norm, source)
    found = read_dppo(path)
    scale = path.with_name("normalization.npz")
    norm = load_normalization(scale)
    require_same_sizes(path, found.states, found.actions, norm, scale)
    arrays = (found.states, found.actions, found.rewards, found.traj_lengths)
    return Dataset(*arrays, norm, source)


def require_same_sizes(
    path: str | Path,
    obs: np.ndarray,
    actions: np.ndarray,
    norm: Normalization,
    origin: str | Path,
) -> None:
    """Raises UserError unless `obs [n, Do]` and `actions [n, Da]` fit `norm`."""
    sizes = (obs.shape[1], actions.shape[1])
    expected = (len(norm.obs_min), len(norm.action_min))
    if sizes != expected:
        raise UserError(
            f"found observations and actions of sizes {sizes} in {path}, expected "
            f"{expected} as in {origin}; take both from one data set"
        )


def is_hdf5(path: str | Path) -> bool:
    """Whether the file's name says so."""
    return Path(path).suffix in (".hdf5", ".h5")


def split_chunks(
    data: Dataset, chunk_len: int, validation_share: float, seed: int
) -> tuple[cloning.Chunks, cloning.Chunks | None]:
    """Returns training and validation chunks; whole trajectories are held out.

    Raises:
      UserError: no trajectory is long enough, or none is left to train on.
    """
    count = len(data.lengths)
    held_out = np.zeros(count, bool)
    order = np.random.default_rng(seed).permutation(count)
    held_out[order[: round(validation_share * count)]] = True
    rows = np.repeat(held_out, data.lengths)
    parts = []
    for part, steps in ((~held_out, ~rows), (held_out, rows)):
        lengths = data.lengths[part]
        if np.all(lengths < chunk_len):
            parts.append(None)
            continue
        arrays = (data.obs[steps], data.actions[steps], lengths)
        parts.append(cloning.make_chunks(*arrays, chunk_len))
    if parts[0] is None:
        raise UserError(
            f"found {count} trajectories, {int(held_out.sum())} of them held out, and "
            f"no training trajectory of {chunk_len} steps or more; collect more "
            "demonstrations or lower validation_share"
        )
    return parts[0], parts[1]
