"""Says what stopped being finite, since when, and how it was before."""

from collections.abc import Mapping, Sequence

import numpy as np

_SHOWN_NAMES = 4

# Control steps after a training call, and the call's scalars.
Record = tuple[int, Mapping[str, float]]


def diagnose(history: Sequence[Record]) -> str | None:
    """Returns the first scalars that are not finite, in words; None where all are.

    Args:
      history: training calls in order, a recent part of the run.
    """
    for number, (env_steps, values) in enumerate(history):
        broken = sorted(name for name, v in values.items() if not np.isfinite(v))
        if broken:
            before = [values for _, values in history[:number]]
            shown = [_statistics(name, before) for name in broken[:_SHOWN_NAMES]]
            rest = len(broken) - len(shown)
            more = f"; and {rest} more" if rest > 0 else ""
            return (
                f"not finite since {env_steps:,} control steps: {'; '.join(shown)}"
                f"{more}"
            )
    return None


def _statistics(name: str, before: Sequence[Mapping[str, float]]) -> str:
    past = [float(values[name]) for values in before if name in values]
    if not past:
        return name
    return (
        f"{name} (in {len(past)} training calls before {min(past):.4g} to "
        f"{max(past):.4g}, mean {np.mean(past):.4g}, last {past[-1]:.4g})"
    )
