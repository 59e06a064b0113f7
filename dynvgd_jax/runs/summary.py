"""What an evaluation's episodes come to: success, or return and score."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from dynvgd_jax.core.scores import judged_by_return, normalised_score, reference
from dynvgd_jax.core.types import EpisodeResult
from dynvgd_jax.runs.intervals import episodes_interval


class Summary(NamedTuple):
    """Averages of one evaluation."""

    control_steps: int  # of training before it, over all environments
    policy: str  # method and start noise, such as base/randn
    episodes: int
    success_chunk: int  # episodes with a whole successful chunk (published success)
    success_any: int  # episodes with any successful control step
    mean_return: float  # of sum (reward - reward_offset)
    mean_length: float  # control steps
    faults: int  # episodes whose physics broke, counted as failures
    # of tasks that are judged by return: mean of the environment's own return and of
    # D4RL's score, where it has one, each with a 95 % bootstrap interval over episodes
    returns: list[float] | None = None  # mean, low, high
    scores: list[float] | None = None  # likewise


def summarise(
    control_steps: int,
    policy: str,
    results: Sequence[EpisodeResult],
    *,
    task: str = "",
    reward_offset: float = 0.0,
) -> Summary:
    """Returns the averages of finished episodes (NaN means where there are none).

    Args:
      control_steps: of training before them.
      policy: method and start noise.
      results: the episodes.
      task: whose they are; decides whether return is what counts.
      reward_offset: that was subtracted from every control step's reward.
    """
    n = len(results)
    returns = scores = None
    if n and judged_by_return(task):
        found = episodes_interval(own_returns(results, reward_offset))
        returns = list(found)
        if reference(task) is not None:
            scores = normalised_score(task, found).tolist()
    return Summary(
        control_steps=control_steps,
        policy=policy,
        episodes=n,
        success_chunk=sum(bool(r.success_chunk) for r in results),
        success_any=sum(bool(r.success_any) for r in results),
        mean_return=sum(r.episode_return for r in results) / n if n else math.nan,
        mean_length=sum(r.length for r in results) / n if n else math.nan,
        faults=sum(bool(r.fault) for r in results),
        returns=returns,
        scores=scores,
    )


def own_returns(results: Sequence[EpisodeResult], reward_offset: float) -> np.ndarray:
    """Returns each episode's sum of the environment's own rewards, `[episodes]`."""
    return np.array([r.episode_return + reward_offset * r.length for r in results])


def judged(config: ConfigDict) -> dict[str, Any]:
    """Returns what `summarise` and `shown` have to know of a run."""
    return {"task": config.task, "reward_offset": config.reward_offset}


def shown(
    results: Sequence[EpisodeResult], *, task: str, reward_offset: float
) -> dict[str, float]:
    """Returns what progress displays show of episodes, at least one."""
    if judged_by_return(task):
        return {"mean_return": float(np.mean(own_returns(results, reward_offset)))}
    return {"success": sum(r.success_chunk for r in results) / len(results)}


def measures(prefix: str, summary: Summary) -> dict[str, float]:
    """Returns what an evaluation is compared by, under TensorBoard's tags."""
    values = {f"{prefix}/success_rate": summary.success_chunk / summary.episodes}
    if summary.returns is not None:
        values[f"{prefix}/return"] = summary.returns[0]
    if summary.scores is not None:
        values[f"{prefix}/normalized_score"] = summary.scores[0]
    return values
