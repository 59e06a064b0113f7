"""Demonstration files: robomimic's HDF5 layout and DPPO's npz layout."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.normalize import (
    Normalization,
    normalize_action,
    normalize_obs,
    save_normalization,
)
from dynvgd_jax.core.untrusted import load_npz
from dynvgd_jax.demos.hdf5 import (
    attribute,
    check_sizes,
    choose_episodes,
    parse_env_args,
    require_inside,
)
from dynvgd_jax.runs.terminal import PATIENCE_S, Progress

# robomimic's name of each part of the observation and its size; the object is the rest.
ARM_PARTS = (
    ("robot0_eef_pos", 3),
    ("robot0_eef_quat", 4),
    ("robot0_gripper_qpos", 2),
)
# What h5py raises on damaged files.
_HDF5_ERRORS = (
    ArithmeticError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
OBJECT_KEYS = ("object", "object-state")  # robomimic writes the first


class DemoEpisode(NamedTuple):
    """One demonstration in raw units."""

    obs: np.ndarray  # [T, Do] float32, before each action
    actions: np.ndarray  # [T, Da] float32, robosuite's, in [-1, 1]
    rewards: np.ndarray  # [T] float32, robosuite's sparse reward
    last_obs: np.ndarray  # [Do] float32, after the last action
    operator: str = ""  # who demonstrated; empty where unknown
    seed: int = -1  # of the reset; -1 where unknown
    success: bool = False  # the last control step was successful
    states: np.ndarray | None = None  # [T, Ds] float64, MuJoCo time, qpos, qvel


class Trajectories(NamedTuple):
    """What a `train.npz` holds: all episodes one after another, normalised."""

    states: np.ndarray  # [sum T, Do] float32
    actions: np.ndarray  # [sum T, Da] float32
    rewards: np.ndarray  # [sum T] float32
    terminals: np.ndarray  # [sum T] bool, true at each episode's last step
    traj_lengths: np.ndarray  # [episodes] int64


def write_robomimic(
    path: str | Path,
    episodes: Sequence[DemoEpisode],
    env_args: dict,
    masks: dict[str, Sequence[int]] | None = None,
) -> None:
    """Writes episodes as `data/demo_i`, with operator, seed and success as attributes.

    Args:
      path: the new file.
      episodes: as many as there are; the object's observation is what follows the arm.
      env_args: robomimic's description of the environment, stored as JSON.
      masks: episode numbers under `mask/<name>`, robomimic's filter keys.

    Raises:
      UserError: the file exists.
    """
    if Path(path).exists():
        raise UserError(f"{path} exists already; give another path or remove it")
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = sum(len(e.actions) for e in episodes)
        data.attrs["env_args"] = json.dumps(env_args, indent=1)
        for index, episode in enumerate(episodes):
            _write_episode(data.create_group(f"demo_{index}"), episode)
        for name, members in (masks or {}).items():
            keys = np.array([f"demo_{i}" for i in members], dtype="S")
            file.create_dataset(f"mask/{name}", data=keys)


def _write_episode(group: h5py.Group, episode: DemoEpisode) -> None:
    steps = len(episode.actions)
    following = np.concatenate([episode.obs[1:], episode.last_obs[None]])
    for name, values in (("obs", episode.obs), ("next_obs", following)):
        start = 0
        for key, size in (*ARM_PARTS, (OBJECT_KEYS[0], None)):
            stop = None if size is None else start + size
            group.create_dataset(f"{name}/{key}", data=values[:, start:stop])
            start = stop
    dones = np.zeros(steps, np.int64)
    dones[-1] = 1
    group.create_dataset("actions", data=episode.actions)
    group.create_dataset("rewards", data=episode.rewards)
    group.create_dataset("dones", data=dones)
    if episode.states is not None:
        group.create_dataset("states", data=episode.states)
    group.attrs["num_samples"] = steps
    if episode.operator:  # of fixed length: see `hdf5.attribute`
        group.attrs["operator"] = np.bytes_(episode.operator.encode())
    group.attrs["seed"] = episode.seed
    group.attrs["success"] = episode.success


def read_robomimic(
    path: str | Path, masks: Mapping[str, list[str]] | None = None, filter_key: str = ""
) -> list[DemoEpisode]:
    """Reads a low-dimensional robomimic file, ours or a published one.

    Nothing is allocated before the sizes that the file declares stay, added up, below
    `hdf5.MAX_HDF5_BYTES`. Rewards may be absent and are then 0.

    Args:
      path: the file.
      masks: its filter keys, as `hdf5.read_words` gives them.
      filter_key: one of them; "" reads every episode.

    Raises:
      UserError: no such file, not HDF5, too large, or a part is missing or has a wrong
        shape or type.
    """
    _check_file(path, "a robomimic HDF5 file")
    try:
        with h5py.File(path, "r") as file:
            data = file.get("data")
            if not isinstance(data, h5py.Group) or not len(data):
                raise UserError(f"{path} has no group 'data'; expected robomimic's")
            require_inside(file, data, f"{path}: data")
            names = choose_episodes(path, list(data), masks or {}, filter_key)
            check_sizes(path, data, names)
            episodes = []
            with Progress(len(names), unit="episodes read", patience_s=PATIENCE_S) as p:
                for name in names:
                    episodes.append(_read_episode(data[name], f"{path}: data/{name}"))
                    p.update(len(episodes))
            return episodes
    except _HDF5_ERRORS as error:
        raise UserError(f"{path} cannot be read as HDF5: {error}") from error


def _read_episode(group: h5py.Group, where: str) -> DemoEpisode:
    object_key = next((k for k in OBJECT_KEYS if f"obs/{k}" in group), OBJECT_KEYS[0])
    keys = [*(key for key, _ in ARM_PARTS), object_key]
    if "obs/robot1_eef_pos" in group:  # two arms: the second one before the object
        second = [key.replace("robot0", "robot1") for key, _ in ARM_PARTS]
        keys = [*keys[:-1], *second, object_key]
    needed = ["actions", *(f"obs/{key}" for key in keys)]
    missing = [name for name in needed if name not in group]
    if missing:
        raw = "obs" not in group and "states" in group
        remedy = (
            "; extract them with robomimic's dataset_states_to_obs.py" if raw else ""
        )
        raise UserError(
            f"{where} lacks {', '.join(missing)}; expected robomimic's low_dim layout"
            f"{remedy}"
        )
    actions = _float32(group["actions"][()])
    rewards = np.zeros(len(actions), np.float32)
    if "rewards" in group:  # cloning needs none
        rewards = _float32(group["rewards"][()])
    obs = last = _join(group, "obs", keys, where)
    if all(f"next_obs/{key}" in group for key in keys):
        last = _join(group, "next_obs", keys, where)
    if (
        not actions.ndim == 2
        or rewards.shape != (len(actions),)
        or len(actions) != len(obs)
        or 0 in (*actions.shape, *obs.shape)
        or last.shape != obs.shape
    ):
        raise UserError(
            f"{where}: found actions {actions.shape}, rewards {rewards.shape} and "
            f"observations {obs.shape}, expected equal numbers of steps, no empty part"
        )
    if not all(np.isfinite(part).all() for part in (actions, rewards, obs, last)):
        raise UserError(f"{where} holds values that are not finite; write it again")
    return DemoEpisode(
        obs=obs,
        actions=actions,
        rewards=rewards,
        last_obs=last[-1],
        operator=bytes(attribute(group, "operator", b"")).decode(),
        seed=int(np.int64(attribute(group, "seed", -1))),
        success=bool(attribute(group, "success", rewards[-1] > 0)),
        states=group["states"][()] if "states" in group else None,
    )


def _join(group: h5py.Group, name: str, keys: list[str], where: str) -> np.ndarray:
    parts = [_float32(group[f"{name}/{key}"][()]) for key in keys]
    if len({part.shape[:1] for part in parts}) != 1 or any(p.ndim != 2 for p in parts):
        shapes = {key: part.shape for key, part in zip(keys, parts, strict=True)}
        raise UserError(f"{where}/{name}: found {shapes}, expected equal lengths")
    return np.concatenate(parts, axis=1)


def fit_normalization(episodes: Sequence[DemoEpisode]) -> Normalization:
    """Smallest and largest value of every entry over all steps, as DPPO takes them."""
    obs = np.concatenate([e.obs for e in episodes])
    actions = np.concatenate([e.actions for e in episodes])
    return Normalization(obs.min(0), obs.max(0), actions.min(0), actions.max(0))


def write_dppo(
    folder: str | Path,
    episodes: Sequence[DemoEpisode],
    norm: Normalization | None = None,
    env_args: dict | None = None,
) -> Normalization:
    """Writes `train.npz` and `normalization.npz` and returns the normalisation.

    Beside DPPO's arrays `train.npz` holds `operators`, `successes` and `seeds`, one
    entry per episode.

    Args:
      folder: exists.
      episodes: as many as there are.
      norm: the scale; None fits it to the episodes.
      env_args: robomimic's description of the environment.

    Raises:
      UserError: a file exists.
    """
    norm = fit_normalization(episodes) if norm is None else norm
    lengths = np.array([len(e.actions) for e in episodes], np.int64)
    data = Trajectories(
        states=normalize_obs(norm, np.concatenate([e.obs for e in episodes])),
        actions=normalize_action(norm, np.concatenate([e.actions for e in episodes])),
        rewards=np.concatenate([e.rewards for e in episodes]).astype(np.float32),
        terminals=_last_steps(lengths),
        traj_lengths=lengths,
    )
    write_trajectories(
        folder,
        data,
        norm,
        env_args,
        operators=np.array([e.operator for e in episodes]),
        successes=np.array([e.success for e in episodes]),
        seeds=np.array([e.seed for e in episodes], np.int64),
    )
    return norm


def write_trajectories(
    folder: str | Path,
    data: Trajectories,
    norm: Normalization,
    env_args: dict | None = None,
    **more: np.ndarray,
) -> None:
    """Writes `train.npz`, with `more` arrays, and `normalization.npz`.

    `env_args`, robomimic's description of the environment, stays with the data, as text
    under that name.

    Raises:
      UserError: a file exists.
    """
    train, scale = Path(folder) / "train.npz", Path(folder) / "normalization.npz"
    for path in (train, scale):
        if path.exists():
            raise UserError(f"{path} exists already; give another folder or remove it")
    if env_args is not None:
        more["env_args"] = np.array(json.dumps(env_args))
    np.savez_compressed(train, **data._asdict(), **more)
    save_normalization(scale, norm)


def _last_steps(lengths: np.ndarray) -> np.ndarray:
    """`[sum of lengths]` bool, true at the last step of each episode."""
    last = np.zeros(lengths.sum(), bool)
    last[np.cumsum(lengths) - 1] = True
    return last


def read_dppo(path: str | Path) -> Trajectories:
    """Reads a `train.npz`, ours or DPPO's; rewards and terminals may be absent.

    Raises:
      UserError: no such file, not npz, or an array is missing or has a wrong shape.
    """
    _check_file(path, "a train.npz with states, actions and traj_lengths")
    needed = ("states", "actions", "traj_lengths")
    found = load_npz(path, Trajectories._fields)
    missing = [name for name in needed if name not in found]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; expected {needed}")
    if any(array.dtype.kind not in "fiub" for array in found.values()):
        raise UserError(f"{path} holds arrays that are no numbers; write it again")
    states, actions = _float32(found["states"]), _float32(found["actions"])
    with np.errstate(invalid="ignore"):  # NaN becomes a number that is refused below
        lengths = found["traj_lengths"].astype(np.int64)
    if lengths.ndim != 1 or len(lengths) == 0 or lengths.min() < 1:
        raise UserError(f"{path}: expected at least one episode of at least one step")
    total = sum(lengths.tolist())
    if (
        not states.ndim == actions.ndim == 2
        or not len(states) == len(actions) == total
        or 0 in (states.shape[1], actions.shape[1])
    ):
        raise UserError(
            f"{path}: found states {states.shape}, actions {actions.shape} and lengths "
            f"adding up to {total}, expected [steps, size] with equal steps, size >= 1"
        )
    rewards = _float32(found.get("rewards", np.zeros(total)))
    terminals = found.get("terminals", _last_steps(lengths)).astype(bool)
    if rewards.shape != (total,) or terminals.shape != (total,):
        raise UserError(
            f"{path}: found rewards {rewards.shape} and terminals {terminals.shape}, "
            f"expected ({total},) each"
        )
    if not all(np.isfinite(part).all() for part in (states, actions, rewards)):
        raise UserError(f"{path} holds values that are not finite; write it again")
    return Trajectories(states, actions, rewards, terminals, lengths)


def read_npz_env_args(path: str | Path) -> dict[str, Any] | None:
    """Returns robomimic's description of the environment; None where npz has none."""
    text = load_npz(path, ["env_args"]).get("env_args")
    if text is None or text.shape != () or text.dtype.kind != "U":
        return None
    try:
        return parse_env_args(str(text))
    except ValueError:  # no Unicode in a damaged file
        return None


def _float32(values: np.ndarray) -> np.ndarray:
    """What is too large becomes infinity, without a warning: the caller refuses it."""
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32)


def _check_file(path: str | Path, expected: str) -> None:
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file, expected {expected}")
