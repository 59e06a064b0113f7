"""What a task's experts are made of: a script, and operators who follow it."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from dynvgd_jax.demos.motion import Aim, Hand, Scene

# A number is taken as it is, a pair is a uniform range, a list is a choice.
Spread = float | tuple[float, float] | list[float]


class Operator(NamedTuple):
    """One way to do a task, with the spread between its episodes."""

    style: dict[str, Spread]  # fields of the task's style; others keep the default
    # These change once it has grasped nothing.
    after_mishap: Mapping[str, Spread] = MappingProxyType({})
    wobble: float = 1.0  # times the configured waypoint noise
    hesitation: float = 0.0  # chance per control step to pause for a moment
    detour: float = 0.006  # chance per control step to stray for a moment


class Script(NamedTuple):
    """All that demonstrations need to know of a task."""

    object_body: Callable[[Any], str]  # robosuite environment -> body that it moves
    style: Callable[..., Any]  # record of an episode's ways, all fields with defaults
    decide: Callable[[Any, Scene], Aim]  # (style, scene) -> what to do next
    closed_on_nothing: Callable[[Scene], bool]
    # Good and bad operators share the states before a bad choice, so that a policy
    # trained on their mixture holds both choices where a critic can tell them apart.
    # "expert" is the noise-free measure of the script; the others demonstrate.
    operators: Mapping[str, Operator]


class PairScript(NamedTuple):
    """The same of a task for two hands."""

    read: Callable[[Any], Any]  # robosuite environment -> its scene, with `hands`
    style: Callable[..., Any]
    decide: Callable[[Any, Any], tuple[Aim, Aim]]  # (style, scene) -> each hand's aim
    closed_on_nothing: Callable[[Hand], bool]
    lowest_z: Callable[[Any], float]  # scene -> m, of what must not fall to the floor
    operators: Mapping[str, Operator]


def draw_style(spreads: Mapping[str, Spread], rng: np.random.Generator) -> dict:
    """One value per field, drawn in the order of the table."""
    values = {}
    for field, spread in spreads.items():
        if isinstance(spread, list):
            values[field] = float(rng.choice(spread))
        elif isinstance(spread, tuple):
            values[field] = float(rng.uniform(*spread))
        else:
            values[field] = float(spread)
    return values
