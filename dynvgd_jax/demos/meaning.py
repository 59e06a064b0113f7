"""Whether data means what a run takes it for: its own words, and its values.

Words that contradict are refused. Values can only make one suspect, and are warned of.
"""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.observation import LAYOUTS, entry_name, observation_slices
from dynvgd_jax.envs.gym.tasks import env_id
from dynvgd_jax.envs.robosuite.options import CONTROL_FREQ_HZ, CONTROLLER
from dynvgd_jax.envs.robosuite.tasks import TASKS, Task, get_task

log = logging.getLogger(__name__)

ROBOSUITE, GYM = 1, 2  # robomimic's numbers for them
# Entries of a file's controller that decide what its actions mean.
_CHECKED = (
    "type",
    "control_delta",
    "impedance_mode",
    "input_max",
    "input_min",
    "output_max",
    "output_min",
    "kp",
    "uncouple_pos_ori",
)
# Where the object lies at first, (x, y) in m: robosuite's ranges, 0.1 m wider.
_STARTS_M = {
    "lift": ((-0.13, 0.13), (-0.13, 0.13)),
    "can": ((-0.14, 0.35), (-0.54, 0.04)),
    "square": ((-0.22, -0.01), (0.01, 0.33)),
}
# Shares and bounds beyond which values are named. Real data stays far below.
_ODD_SHARE = 0.05
_QUAT_TOLERANCE = 0.05
_DISTANCE_TOLERANCE_M = 0.02
_MAX_ACTION = 1.01
_MAX_NORMALIZED = 5.0


def check_words(
    path: str | Path,
    env_args: Mapping[str, Any] | None,
    task: Task,
    *,
    needs_rewards: bool,
) -> None:
    """Raises UserError where a file's own words contradict a task.

    Args:
      path: what messages begin with.
      env_args: robomimic's description of the environment; None says nothing.
      task: that the data is taken for.
      needs_rewards: critics learn from the file.
    """
    if env_args is None:
        return
    kwargs = _mapping(env_args.get("env_kwargs"))
    _require(
        path,
        "kind of environment (robomimic's type)",
        env_args.get("type", ROBOSUITE),
        ROBOSUITE,
        "robosuite's; other simulators' data means something else",
    )
    name = env_args.get("env_name")
    near = [t.name for t in TASKS.values() if t.env_name == name]
    _require(
        path,
        "environment",
        name,
        task.env_name,
        f"that of task {task.name!r}; give this task's data"
        + (f", or set task to {near[0]!r}" if near else ""),
    )
    _check_version(path, env_args, task)
    robots = kwargs.get("robots", ["Panda"] * task.num_arms)
    robots = [robots] if isinstance(robots, str) else robots
    wanted = ["Panda"] * task.num_arms
    _require(path, "robots", robots, wanted, "another arm moves otherwise")
    _require(
        path,
        "control_freq",
        kwargs.get("control_freq", CONTROL_FREQ_HZ),
        CONTROL_FREQ_HZ,
        "in Hz; another rate gives the actions another length in time",
    )
    _check_controller(path, kwargs.get("controller_configs"))
    if needs_rewards:
        _require(
            path,
            "kind of reward (reward_shaping)",
            kwargs.get("reward_shaping", False),
            False,
            "0 and 1 at success; extract it again without shaping",
        )


def check_gym_words(
    path: str | Path, env_args: Mapping[str, Any] | None, task: str
) -> None:
    """Raises UserError where a file's own words contradict a Gymnasium task.

    Versions of the same model may differ: D4RL's data is of version 2.
    """
    if env_args is None:
        return
    kind = env_args.get("type", GYM)
    _require(path, "kind of environment (robomimic's type)", kind, GYM, "gymnasium's")
    found, expected = (
        re.sub(r"-v\d+$", "", str(n)) for n in (env_args.get("env_name"), env_id(task))
    )
    remark = f"that of task {task!r}; give this task's data"
    _require(path, "environment", found, expected, remark)


def _check_version(path, env_args: Mapping[str, Any], task: Task) -> None:
    version = env_args.get("env_version")
    if version is None:
        return
    try:
        number = tuple(int(part) for part in str(version).split(".")[:2])
    except ValueError:
        number = ()
    if len(number) < 2:
        log.warning(
            "%s: found env_version %.40r, expected such as 1.4.1", path, version
        )
    elif number >= (1, 5):
        raise UserError(
            f"{path} says that it was made with robosuite {version}, expected 1.4: "
            "there the object's observation has another order and Lift's another sign; "
            "extract the observations again with robosuite 1.4.1, or make "
            f"demonstrations with configs/{task.name}_demos.py"
        )
    elif number < (1, 4):
        log.warning(
            "%s says that it was made with robosuite %s, expected 1.4: contacts may "
            "differ",
            path,
            version,
        )


def _check_controller(path, configs: Any) -> None:
    """Of each arm; a file that says nothing of an entry has robosuite's default."""
    for config in configs if isinstance(configs, list) else [configs]:
        config = _mapping(config)
        if "body_parts" in config:
            raise UserError(
                f"{path}: controller_configs has body_parts, which robosuite 1.5 "
                "writes, expected OSC_POSE of 1.4; make the data again with 1.4.1"
            )
        if config.get("control_delta", True) is False:
            raise UserError(
                f"{path}: its actions are absolute poses (control_delta false), "
                "expected changes of the pose; use the file of the same data set whose "
                "actions are relative (robomimic's without 'abs')"
            )
        for name in _CHECKED:
            expected = CONTROLLER[name]
            found = config.get(name, expected)
            if _same(found, expected):
                continue
            raise UserError(
                f"{path}: found controller {name} {found!r:.80}, expected "
                f"{expected!r}: its actions mean other motions; give data of "
                "robosuite's OSC_POSE"
            )


def _same(found: Any, expected: Any) -> bool:
    """Whether two entries mean the same: one number may stand for equal ones."""
    found, expected = (
        value if isinstance(value, list) else [value] * 6 for value in (found, expected)
    )
    return found == expected


def check_rewards(path: str | Path, rewards: np.ndarray) -> None:
    """Raises UserError unless demonstrations hold rewards 0 and 1, some of them 1."""
    if not np.any(rewards):
        raise UserError(
            f"{path} holds no reward, so that critics can learn nothing from it; "
            "give a file with rewards"
        )
    if not np.all((rewards == 0) | (rewards == 1)):
        raise UserError(
            f"{path} holds rewards from {rewards.min():g} to {rewards.max():g}, "
            "expected 0, and 1 at success, as robosuite gives without shaping and "
            "before reward_offset; write them so"
        )


def check_chunk_rewards(
    path: str | Path, rewards: np.ndarray, chunk_len: int, reward_offset: float
) -> None:
    """Raises UserError where transitions' rewards are none that a chunk can have."""
    low, high = -chunk_len * reward_offset, chunk_len * (1 - reward_offset)
    if rewards.min() < low - 1e-3 or rewards.max() > high + 1e-3:
        raise UserError(
            f"{path} holds rewards from {rewards.min():g} to {rewards.max():g}, "
            f"expected {low:g} to {high:g}: the sum over {chunk_len} control steps of "
            f"the reward, 0 or 1, less reward_offset = {reward_offset:g}; write them "
            "so, or set reward_offset as in the file"
        )


def warn_of_values(
    path: str | Path,
    task: str,
    obs: np.ndarray,
    actions: np.ndarray,
    first_steps: np.ndarray | None = None,
) -> None:
    """Logs a warning for each kind of value that is odd for a task.

    Args:
      path: what sentences begin with.
      task: robosuite task; others, and other sizes, are not looked at.
      obs: `[n, Do]`, raw.
      actions: `[n, ...]`, raw.
      first_steps: rows at which episodes begin, where that is known.
    """
    if task not in LAYOUTS or obs.shape[1] != get_task(task).obs_dim:
        return
    obs = np.asarray(obs, np.float64)
    reach = float(np.abs(actions).max())
    if reach > _MAX_ACTION:
        log.warning(
            "%s: actions reach %.3g, robosuite's lie in [-1, 1]: absolute poses, or a "
            "scale of other data?",
            path,
            reach,
        )
    places = observation_slices(task)
    _warn_of_quaternions(path, places, obs)
    _warn_of_order(path, task, places, obs)
    if first_steps is not None:
        _warn_of_starts(path, task, places, obs[first_steps])


def _warn_of_quaternions(path, places: Mapping[str, slice], obs: np.ndarray) -> None:
    for name, place in places.items():
        if not name.endswith("quat"):
            continue
        lengths = np.linalg.norm(obs[:, place], axis=1)
        if np.mean(np.abs(lengths - 1) > _QUAT_TOLERANCE) > _ODD_SHARE:
            log.warning(
                "%s: entries %d to %d of the observation, %s here, have lengths from "
                "%.3g to %.3g, expected 1: another observation, or another scale?",
                path,
                place.start,
                place.stop - 1,
                name,
                lengths.min(),
                lengths.max(),
            )
            return


def _warn_of_order(path, task, places: Mapping[str, slice], obs: np.ndarray) -> None:
    """Where the object stands relative to the gripper follows from both positions."""
    pairs = {
        "lift": ("cube_pos", "gripper_to_cube_pos"),
        "can": ("Can_pos", "Can_to_robot0_eef_pos"),
        "square": ("SquareNut_pos", "SquareNut_to_robot0_eef_pos"),
    }
    if task not in pairs:
        return
    position, relative = (obs[:, places[name]] for name in pairs[task])
    offset = obs[:, places["robot0_eef_pos"]] - position
    if task == "lift":
        difference = np.linalg.norm(offset - relative, axis=1)
    else:  # in the gripper's frame
        lengths = [np.linalg.norm(vector, axis=1) for vector in (offset, relative)]
        difference = np.abs(lengths[0] - lengths[1])
    if np.mean(difference > _DISTANCE_TOLERANCE_M) > _ODD_SHARE:
        log.warning(
            "%s: %s is not where %s and robot0_eef_pos put it (off by up to %.3g m): "
            "the observation has another order or sign, as robosuite 1.5's has?",
            path,
            pairs[task][1],
            pairs[task][0],
            difference.max(),
        )


def _warn_of_starts(path, task, places: Mapping[str, slice], obs: np.ndarray) -> None:
    if task not in _STARTS_M:
        return
    x, y = np.median(obs[:, places["robot0_gripper_qpos"].stop :][:, :2], axis=0)
    (x_low, x_high), (y_low, y_high) = _STARTS_M[task]
    if not (x_low <= x <= x_high and y_low <= y <= y_high):
        log.warning(
            "%s: the object begins near (%.2f, %.2f) m, expected x from %g to %g and y "
            "from %g to %g for task %r: another task's data?",
            *(path, x, y, x_low, x_high, y_low, y_high, task),
        )


def warn_of_scale(path: str | Path, task: str, obs: np.ndarray, scale: str) -> None:
    """Logs a warning where normalised observations `[n, Do]` lie far outside [-1, 1].

    Args:
      path: what the sentence begins with.
      task: for the entry's name.
      obs: normalised.
      scale: whose scale that is.
    """
    reach = np.abs(obs).max(axis=0)
    index = int(reach.argmax())
    if reach[index] > _MAX_NORMALIZED:
        log.warning(
            "%s: observation entry %d (%s) reaches %.3g in %s, expected about [-1, 1]: "
            "raw values, other units, or data of another scene?",
            path,
            index,
            entry_name(task, index) or "unnamed",
            reach[index],
            scale,
        )


def _require(
    path: str | Path, what: str, found: Any, expected: Any, remark: str
) -> None:
    if found != expected:
        raise UserError(
            f"{path}: found {what} {found!r:.80}, expected {expected!r}, {remark}"
        )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
