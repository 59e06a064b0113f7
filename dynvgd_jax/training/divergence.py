"""Says what stopped being finite, since when, and which values cannot be."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

_SHOWN_NAMES = 4

# Rewards of a control step before `reward_offset`: robosuite's, without shaping.
STEP_REWARDS = (0.0, 1.0)
# Critics overshoot a little; so much of the range's width is no sign of anything.
_TOLERANCE = 0.1
_CRITIC_MEAN = re.compile(r"train/q\d+_mean")

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


class ValueRange(NamedTuple):
    """What the values of any policy lie in, whatever it does."""

    low: float
    high: float
    # False where nothing bounds the sum of rewards; the range is then one episode's.
    bounded: bool


# Of critics that value more than rewards, such as an actor's entropy.
ANY_VALUE = ValueRange(-math.inf, math.inf, bounded=False)


def value_range(
    config: ConfigDict, chunk_len: int, max_episode_env_steps: int
) -> ValueRange:
    """Returns the least and the greatest value that rewards and discount allow.

    A chunk brings `chunk_len` rewards of STEP_REWARDS less `reward_offset`, and the
    k-th one counts gamma^k. Without `bootstrap_at_time_limit` an episode's chunks are
    all there are; with it the sum goes on for ever: 1 / (1 - gamma) chunks' worth,
    which for gamma 1 is no number. Targets over several chunks (`target_n_step`) sum
    up the same rewards. `target_clip` keeps values near its own bounds, yet those of a
    policy lie in the range above whatever is clipped.

    Args:
      config: of a training run.
      chunk_len: Ta, control steps of a chunk.
      max_episode_env_steps: of an episode, in control steps.
    """
    chunks = -(-max_episode_env_steps // chunk_len)
    gamma, endless = config.gamma, config.bootstrap_at_time_limit
    if endless and gamma < 1:
        count = 1 / (1 - gamma)
    elif gamma < 1:
        count = (1 - gamma**chunks) / (1 - gamma)
    else:
        count = chunks
    low, high = (
        chunk_len * (reward - config.reward_offset) * count for reward in STEP_REWARDS
    )
    # fewer chunks may be left, none after success with end_at_success
    return ValueRange(min(low, 0.0), max(high, 0.0), not (endless and gamma >= 1))


def range_excess(values: Mapping[str, float], allowed: ValueRange) -> float:
    """Returns by how many of the range's widths the critics' means leave it; 0 inside.

    For TensorBoard; `range_warning` puts it in words.

    Args:
      values: scalars of a log interval, of which `train/q<i>_mean` count.
      allowed: of `value_range`.
    """
    means = [v for name, v in values.items() if _CRITIC_MEAN.fullmatch(name)]
    over = [max(allowed.low - v, v - allowed.high, 0.0) for v in means]
    return max(over, default=0.0) / max(allowed.high - allowed.low, 1e-9)


def range_warning(values: Mapping[str, float], allowed: ValueRange) -> str | None:
    """Returns a line where the critics' means leave the range; None where they do not.

    Args:
      values: scalars of a log interval, of which `train/q<i>_mean` count.
      allowed: of `value_range`.
    """
    excess = range_excess(values, allowed)
    if not excess > _TOLERANCE and not math.isnan(excess):
        return None
    means = [v for name, v in values.items() if _CRITIC_MEAN.fullmatch(name)]
    found = f"the critics' mean values are {min(means):.4g} to {max(means):.4g}"
    if not allowed.bounded:
        return (
            f"{found}, beyond the {allowed.low:.4g} to {allowed.high:.4g} of an "
            "episode: with gamma = 1 and bootstrap_at_time_limit nothing bounds them; "
            "lower gamma, or set target_clip"
        )
    return (
        f"{found}, but rewards and discount allow {allowed.low:.4g} to "
        f"{allowed.high:.4g}: they diverge, or the data's rewards are others; lower "
        "learning_rate or gamma, set target_clip, or check replay.offline_dataset"
    )
