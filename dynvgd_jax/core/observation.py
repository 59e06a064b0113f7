"""What stands at which place of a task's observation, and entries that never change."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.normalize import Normalization

log = logging.getLogger(__name__)

# Below this span (m, or of a quaternion) an entry of a scale counts as constant: 1 mm
# more would be 20 normalised units or more.
CONSTANT_BELOW = 1e-4

_ARM = (("eef_pos", 3), ("eef_quat", 4), ("gripper_qpos", 2))
_POSE, _AXES = (("pos", 3), ("quat", 4)), ("x", "y", "z", "w")


def _object(name: str) -> tuple[tuple[str, int], ...]:
    """An object's pose in the world, then in the frame of the gripper."""
    places = (name, f"{name}_to_robot0_eef")
    return tuple((f"{place}_{part}", n) for place in places for part, n in _POSE)


# Robosuite 1.4's observables of `object-state`, with sizes, in order.
_OBJECTS = {
    "lift": (("cube_pos", 3), ("cube_quat", 4), ("gripper_to_cube_pos", 3)),
    "can": _object("Can"),
    "square": _object("SquareNut"),
    "transport": (
        *((f"{o}_{part}", n) for o in ("payload", "trash") for part, n in _POSE),
        *(("lid_handle_pos", 3), ("lid_handle_quat", 4)),
        *(("target_bin_pos", 3), ("trash_bin_pos", 3)),
        *(("gripper0_to_payload", 3), ("gripper0_to_lid_handle", 3)),
        *(("gripper1_to_payload", 3), ("gripper1_to_trash", 3)),
        *(("payload_in_target_bin", 1), ("trash_in_trash_bin", 1)),
    ),
}
_NUM_ARMS = {"lift": 1, "can": 1, "square": 1, "transport": 2}

# Task -> (observable, size) of each part of the observation, in order.
LAYOUTS: dict[str, tuple[tuple[str, int], ...]] = {
    task: (
        *((f"robot{i}_{part}", n) for i in range(_NUM_ARMS[task]) for part, n in _ARM),
        *objects,
    )
    for task, objects in _OBJECTS.items()
}


def observation_slices(task: str) -> dict[str, slice]:
    """Returns observable -> its entries in the task's observation."""
    slices, start = {}, 0
    for name, size in LAYOUTS[task]:
        slices[name] = slice(start, start + size)
        start += size
    return slices


def flatten_observation(task: str, obs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the raw observation `[Do]` float64 of an environment's dictionary.

    Each observable is found by its own name, so that the order in which a release of
    robosuite puts them into `object-state` decides nothing.

    Args:
      task: one of LAYOUTS.
      obs: as robosuite's `reset` and `step` return it; may hold more than is needed.

    Raises:
      UserError: the task's layout is not known, or an observable is missing.
      ValueError: an observable has another size.
    """
    if task not in LAYOUTS:
        raise UserError(
            f"the names in an observation of task {task!r} are not known, expected one "
            f"of {', '.join(LAYOUTS)}; give the observation as one vector"
        )
    missing = [name for name, _ in LAYOUTS[task] if name not in obs]
    if missing:
        raise UserError(
            f"the observation lacks {', '.join(missing)}, expected robosuite's of task "
            f"{task!r}; make the environment with use_object_obs=True"
        )
    parts = [np.ravel(obs[name]) for name, _ in LAYOUTS[task]]
    for (name, size), part in zip(LAYOUTS[task], parts, strict=True):
        if len(part) != size:
            raise ValueError(f"{name}: found {len(part)} values, expected {size}")
    return np.concatenate(parts).astype(np.float64)


def entry_name(task: str, index: int) -> str:
    """Returns e.g. `SquareNut_pos z` for entry 11 of square; "" where unknown."""
    for name, place in observation_slices(task).items() if task in LAYOUTS else ():
        if place.start <= index < place.stop:
            if place.stop - place.start == 1:
                return name
            part = index - place.start
            axis = f"[{part}]" if name.endswith("qpos") else f" {_AXES[part]}"
            return name + axis
    return ""


def warn_of_constants(norm: Normalization, task: str, where: str) -> None:
    """Logs a warning that names each entry of a scale whose span is about 0.

    Args:
      norm: the scale.
      task: of the observation; "" where unknown.
      where: what the sentence begins with, such as a file's name.
    """
    obs_span = np.asarray(norm.obs_max, np.float64) - norm.obs_min
    found = _constants(obs_span, lambda i: entry_name(task, i))
    if found:
        log.warning(
            "%s: observation %s never changed in the data (span below %g): wherever it "
            "does change, 1 mm becomes up to %s normalised units; add data in which it "
            "changes, or widen obs_min and obs_max there",
            where,
            found,
            CONSTANT_BELOW,
            f"{2e-3 / (obs_span.min() + 1e-6):,.0f}",
        )
    action_span = np.asarray(norm.action_max, np.float64) - norm.action_min
    found = _constants(action_span, lambda i: "")
    if found:
        log.warning(
            "%s: action %s never changed in the data (span below %g): the policy "
            "cannot move it, and other data in this scale has huge values there",
            where,
            found,
            CONSTANT_BELOW,
        )


def _constants(span: Sequence[float], name) -> str:
    entries = [
        f"entry {i} ({name(i)})" if name(i) else f"entry {i}"
        for i in np.flatnonzero(np.asarray(span) < CONSTANT_BELOW).tolist()
    ]
    return ", ".join(entries)
