"""What an operator is: a spread of styles, and how unsteady the hand is."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

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
