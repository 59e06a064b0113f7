"""What a task's episodes are judged by: success, or their return and D4RL's score."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

GYM = "gym:"  # begins the name of a task that is named by gymnasium's id
_VERSION = re.compile(r"-v\d+$")


class Reference(NamedTuple):
    """Mean returns that D4RL's normalised score calls 0 and 100."""

    random: float
    expert: float


# D4RL's, of the tasks' version 2 (Fu et al. 2020).
REFERENCES = {
    "hopper": Reference(-20.272305, 3234.3),
    "walker2d": Reference(1.629008, 4592.3),
    "halfcheetah": Reference(-280.178953, 12135.0),
    "ant": Reference(-325.6, 3879.7),
}
_BY_RETURN = ("hopper", "walker2d", "halfcheetah")

SUCCESS, SCORE = "success (whole chunk)", "normalised score / 100"
RETURN = "episode return"


def judged_by_return(task: str) -> bool:
    """Whether a task has no success, and its return is what counts."""
    return task in _BY_RETURN or task.startswith(GYM)


def measure(task: str) -> str:
    """Returns what figures and tables show of a task: SUCCESS, SCORE or RETURN."""
    if not judged_by_return(task):
        return SUCCESS
    return RETURN if reference(task) is None else SCORE


def reference(task: str) -> Reference | None:
    """Returns what `hopper` or `gym:Hopper-v5` is compared with, if D4RL has it."""
    return REFERENCES.get(_VERSION.sub("", task.removeprefix(GYM)).lower())


def normalised_score(task: str, returns: Sequence[float] | np.ndarray) -> np.ndarray:
    """Returns `100 (return - random) / (expert - random)`, D4RL's score.

    Args:
      task: one of which `reference` knows.
      returns: sums of the environment's own rewards, any shape.
    """
    low, high = reference(task)
    return 100.0 * (np.asarray(returns, np.float64) - low) / (high - low)
