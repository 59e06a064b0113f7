"""A demonstration file as training data: normalised, split, cut into chunks."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dynvgd_jax.core.command_line import expand
from dynvgd_jax.core.config_file import config_of
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.normalize import (
    Normalization,
    load_normalization,
    normalize_action,
    normalize_obs,
    unnormalize_action,
    unnormalize_obs,
)
from dynvgd_jax.core.observation import warn_of_constants
from dynvgd_jax.core.scores import judged_by_return
from dynvgd_jax.core.untrusted import sha256
from dynvgd_jax.demos.files import (
    fit_normalization,
    read_dppo,
    read_npz_env_args,
    read_robomimic,
)
from dynvgd_jax.demos.hdf5 import is_hdf5, read_words
from dynvgd_jax.demos.meaning import (
    check_gym_words,
    check_words,
    warn_of_scale,
    warn_of_values,
)
from dynvgd_jax.diffusion import cloning
from dynvgd_jax.envs.base import task_sizes
from dynvgd_jax.envs.robosuite.tasks import find_task


class Dataset(NamedTuple):
    """Demonstrations, normalised, all episodes one after another."""

    obs: np.ndarray  # [steps, Do] float32
    actions: np.ndarray  # [steps, Da] float32
    rewards: np.ndarray  # [steps] float32, 0 where the file has none
    lengths: np.ndarray  # [episodes] int64
    normalization: Normalization
    source: dict[str, str]  # file name and SHA-256, for the policy's metadata
    env_args: dict[str, Any] | None = None  # the file's own description


def load_dataset(
    path: str | Path,
    task: str | None,
    *,
    filter_key: str = "",
    needs_rewards: bool = False,
    name: str | Path | None = None,
) -> Dataset:
    """Reads DPPO's `train.npz` (with `normalization.npz` beside it) or robomimic HDF5.

    A robomimic file holds raw values; its scale is fitted to the episodes that are
    read. Values that are odd for the task, and entries that never change, are logged.

    Args:
      path: the file.
      task: that the data must be of; None does not look at what its
        values mean.
      filter_key: of a robomimic file, whose episodes alone are read; "" is all.
      needs_rewards: critics learn from the file: words that say another kind of reward
        are refused.
      name: what messages about the meaning call the file; None is `path`.

    Raises:
      UserError: the file is missing, damaged, of other sizes than its normalisation, or
        says that it is of another task, robosuite, controller or kind of reward.
    """
    path = expand(path)
    if not path.is_file():
        make = config_of(task or "", "demos")
        advice = "give a train.npz or a robomimic HDF5"
        if make:
            advice = f"make them with: python launch.py --config={make} "
            advice += f"--workdir=data/{task}, or set dataset"
        raise UserError(f"found no demonstrations at {path}; {advice}")
    read = _read_hdf5 if is_hdf5(path) else _read_npz
    data = read(path, filter_key)
    _check_meaning(name or path, data, task, needs_rewards)
    return data


def _check_meaning(
    name: str | Path, data: Dataset, task: str | None, needs_rewards: bool
) -> None:
    norm = data.normalization
    warn_of_constants(norm, task or "", f"the scale of {name}")
    if task is None:
        return
    if judged_by_return(task):
        check_gym_words(name, data.env_args, task)
        return
    known = find_task(task)
    if known is not None:  # another simulator's words mean something else
        check_words(name, data.env_args, known, needs_rewards=needs_rewards)
    warn_of_scale(name, task, data.obs, "its own scale")
    first_steps = np.cumsum(data.lengths) - data.lengths
    obs, actions = (
        unnormalize_obs(norm, data.obs),
        unnormalize_action(norm, data.actions),
    )
    warn_of_values(name, task, obs, actions, first_steps)


def require_task_sizes(name: str | Path, data: Dataset, task: str) -> None:
    """Raises UserError where observations or actions have other sizes than the task's.

    Of tasks whose environments tell the sizes nothing is known here.
    """
    sizes = task_sizes(task)
    expected = sizes and (sizes.obs_dim, sizes.action_dim)
    found = (data.obs.shape[1], data.actions.shape[1])
    if expected not in (None, found):
        raise UserError(
            f"{name}: found observations of {found[0]} and actions of {found[1]} "
            f"entries, expected {expected[0]} and {expected[1]} of task {task!r}"
        )


def _read_hdf5(path: Path, filter_key: str) -> Dataset:
    words = read_words(path)
    episodes = read_robomimic(path, words.masks, filter_key)
    norm = fit_normalization(episodes)
    source = {"file": path.name, "sha256": sha256(path)}
    return Dataset(
        obs=normalize_obs(norm, np.concatenate([e.obs for e in episodes])),
        actions=normalize_action(norm, np.concatenate([e.actions for e in episodes])),
        rewards=np.concatenate([e.rewards for e in episodes]),
        lengths=np.array([len(e.actions) for e in episodes], np.int64),
        normalization=norm,
        source=source | ({"filter_key": filter_key} if filter_key else {}),
        env_args=words.env_args,
    )


def _read_npz(path: Path, filter_key: str) -> Dataset:
    refuse_filter_key(path, filter_key)
    found = read_dppo(path)
    scale = path.with_name("normalization.npz")
    norm = load_normalization(scale)
    require_same_sizes(path, found.states, found.actions, norm, scale)
    source = {"file": path.name, "sha256": sha256(path)}
    arrays = (found.states, found.actions, found.rewards, found.traj_lengths)
    return Dataset(*arrays, norm, source, read_npz_env_args(path))


def refuse_filter_key(path: str | Path, filter_key: str) -> None:
    """Raises UserError where a file without filter keys is asked for one."""
    if filter_key:
        raise UserError(
            f"{path}: found the filter key {filter_key!r}, which only robomimic's HDF5 "
            "has; give that file, or no key"
        )


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
