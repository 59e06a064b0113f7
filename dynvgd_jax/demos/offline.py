"""Transitions from elsewhere for the replay buffer: from demonstrations, or as such."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dynvgd_jax.core.command_line import expand
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.normalize import (
    Normalization,
    load_normalization,
    normalize_action,
    normalize_obs,
    unnormalize_action,
    unnormalize_obs,
)
from dynvgd_jax.core.scores import judged_by_return
from dynvgd_jax.core.types import Transition
from dynvgd_jax.core.untrusted import load_npz
from dynvgd_jax.demos.dataset import (
    Dataset,
    load_dataset,
    refuse_filter_key,
    require_same_sizes,
)
from dynvgd_jax.demos.files import read_npz_env_args
from dynvgd_jax.demos.hdf5 import is_hdf5
from dynvgd_jax.demos.meaning import (
    check_chunk_rewards,
    check_rewards,
    check_words,
    warn_of_scale,
    warn_of_values,
)
from dynvgd_jax.envs.robosuite.tasks import find_task

# An npz of transitions, as the published code's offline data.
ARRAYS = ("states", "states_next", "actions", "rewards", "terminals")


class Offline(NamedTuple):
    """What a file gave."""

    transitions: Transition  # leading axis n, at least 1
    sha256: str  # of the transitions: a scale beside the file decides them as well


def load_offline(
    path: str | Path,
    norm: Normalization,
    chunk_len: int,
    reward_offset: float,
    task: str,
    filter_key: str = "",
) -> Offline:
    """Reads transitions, scaled as the policy sees them.

    Three kinds of file: robomimic's HDF5; DPPO's `train.npz`; an npz of transitions
    with `states`, `states_next` `[n, Do]`, `actions` `[n, Ta * Da]` or `[n, Ta, Da]`,
    `rewards` (of the chunk, offset subtracted) and `terminals` `[n]`. Where a
    `normalization.npz` lies beside an npz, its values are rescaled from that to `norm`;
    transitions without one are taken as scaled by `norm`.

    Args:
      path: the file.
      norm: the policy's scale.
      chunk_len: Ta.
      reward_offset: subtracted from a demonstration's reward at every control step.
      task: of the run; a file that says another one, or another robosuite, controller
        or kind of reward, is refused, and odd values are logged.
      filter_key: of robomimic's HDF5, whose episodes alone are read; "" is all.

    Raises:
      UserError: whatever does not fit.
    """
    path = expand(path)
    if not path.is_file():
        raise UserError(
            f"config.replay.offline_dataset: no file {str(path)!r}, expected a "
            "train.npz, a robomimic HDF5 or an npz of transitions"
        )
    is_demos = is_hdf5(path) or "states_next" not in load_npz(path, ["states_next"])
    if is_demos:
        if judged_by_return(task):
            raise UserError(
                f"{path}: demonstrations of task {task!r} do not say whether anything "
                "followed their ends; expected an npz of transitions"
            )
        data = load_dataset(path, task, filter_key=filter_key, needs_rewards=True)
        require_same_sizes(path, data.obs, data.actions, norm, "the base policy")
        obs = _rescale_obs(data.normalization, norm, data.obs)
        actions = _rescale_actions(data.normalization, norm, data.actions)
        warn_of_scale(path, task, obs, "the base policy's scale")
        data = data._replace(obs=obs, actions=actions)
        transitions = cut_transitions(str(path), data, chunk_len, reward_offset)
    else:
        refuse_filter_key(path, filter_key)
        transitions = _read_transitions(path, norm, chunk_len)
        _check_transitions(path, transitions, norm, chunk_len, reward_offset, task)
    digest = hashlib.sha256()
    for array in transitions[:5]:  # what `ended` says is the same for all
        digest.update(np.ascontiguousarray(array))
    return Offline(transitions, digest.hexdigest())


def cut_transitions(
    source: str, data: Dataset, chunk_len: int, reward_offset: float
) -> Transition:
    """Returns a transition for every start of a full chunk inside an episode.

    A chunk that ends with the episode is terminal where its last step was rewarded:
    success stays, so that all later rewards, less the offset of 1, are 0. Where it was
    not, nobody knows what would have followed, and the chunk is left out.

    Args:
      source: what messages begin with.
      data: demonstrations, scaled as the policy sees them.
      chunk_len: Ta.
      reward_offset: subtracted at every control step.

    Raises:
      UserError: no step has a reward, some reward is neither 0 nor 1, the offset is
        not 1, or no episode is long enough.
    """
    check_rewards(source, data.rewards)
    if reward_offset != 1.0:
        raise UserError(
            f"config.reward_offset: found {reward_offset:g}, expected 1 with the "
            f"demonstrations {source}: what follows a success counts as 0; give an npz "
            "of transitions"
        )
    ends = np.repeat(np.cumsum(data.lengths), data.lengths)  # [steps], past the last
    starts = np.arange(len(data.obs))
    stops = starts + chunk_len
    rewarded = data.rewards[ends - 1] > 0
    keep = (stops < ends) | ((stops == ends) & rewarded)
    starts, stops, ends = starts[keep], stops[keep], ends[keep]
    if not len(starts):
        raise UserError(
            f"{source} holds no episode of {chunk_len} steps and a next one"
        )
    steps = starts[:, None] + np.arange(chunk_len)
    done = stops == ends
    reward = np.sum(data.rewards[steps] - reward_offset, axis=1, dtype=np.float64)
    return Transition(
        obs=data.obs[starts],
        action=data.actions[steps].reshape(len(starts), -1),
        reward=reward.astype(np.float32),
        # A terminal chunk's is never used; its own last step stands there.
        next_obs=data.obs[np.where(done, stops - 1, stops)],
        **_alone(done),
    )


def _read_transitions(path: Path, norm: Normalization, chunk_len: int) -> Transition:
    found = load_npz(path, ARRAYS)
    missing = [name for name in ARRAYS if name not in found]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; expected {ARRAYS}")
    if any(array.dtype.kind not in "fiub" for array in found.values()):
        raise UserError(f"{path} holds arrays that are no numbers; write it again")
    with np.errstate(over="ignore", invalid="ignore"):  # infinity is refused below
        found = {name: array.astype(np.float32) for name, array in found.items()}
    count, action_dim = len(np.atleast_1d(found["rewards"])), len(norm.action_min)
    chunk = (count, chunk_len, action_dim)
    if found["actions"].shape == (count, chunk_len * action_dim):
        found["actions"] = found["actions"].reshape(chunk)
    states = (count, len(norm.obs_min))
    expected = dict(
        zip(ARRAYS, (states, states, chunk, (count,), (count,)), strict=True)
    )
    shapes = {name: found[name].shape for name in ARRAYS}
    if shapes != expected or not count:
        raise UserError(
            f"{path}: found {shapes}, expected {expected} with at least one transition"
        )
    if not all(np.isfinite(array).all() for array in found.values()):
        raise UserError(f"{path} holds values that are not finite; write it again")
    scale = path.with_name("normalization.npz")
    if scale.is_file():
        old = load_normalization(scale)
        require_same_sizes(path, found["states"], found["actions"][:, 0], old, scale)
        for name in ("states", "states_next"):
            found[name] = _rescale_obs(old, norm, found[name])
        found["actions"] = _rescale_actions(old, norm, found["actions"])
    return Transition(
        obs=found["states"],
        action=found["actions"].reshape(count, -1),
        reward=found["rewards"],
        next_obs=found["states_next"],
        **_alone(found["terminals"] != 0),
    )


def _alone(done: np.ndarray) -> dict[str, np.ndarray]:
    """The fields of transitions `[n]` that are drawn one by one."""
    discount = 1.0 - done.astype(np.float32)
    return {"discount": discount, "ended": np.ones(len(done), bool)}


def _check_transitions(
    path: Path,
    transitions: Transition,
    norm: Normalization,
    chunk_len: int,
    reward_offset: float,
    task: str,
) -> None:
    """Raises UserError, or logs, where they are no transitions of the task."""
    known = find_task(task)
    if known is not None:
        check_words(path, read_npz_env_args(path), known, needs_rewards=True)
        check_chunk_rewards(path, transitions.reward, chunk_len, reward_offset)
    warn_of_scale(path, task, transitions.obs, "the base policy's scale")
    actions = transitions.action.reshape(len(transitions.action), chunk_len, -1)
    raw = unnormalize_obs(norm, transitions.obs), unnormalize_action(norm, actions)
    warn_of_values(path, task, *raw)


def _same(one: Normalization, other: Normalization) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def _rescale_obs(old: Normalization, new: Normalization, obs: np.ndarray):
    return obs if _same(old, new) else normalize_obs(new, unnormalize_obs(old, obs))


def _rescale_actions(old: Normalization, new: Normalization, actions: np.ndarray):
    if _same(old, new):
        return actions
    return normalize_action(new, unnormalize_action(old, actions))
