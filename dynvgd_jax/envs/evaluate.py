"""Evaluation on a fixed list of seeds."""

from collections.abc import Callable

import numpy as np

from dynvgd_jax.core.types import EpisodeResult, VectorEnv
from dynvgd_jax.envs.rollout import EVAL_STREAM, ActFn, episode_seed, run_episodes


def evaluation_seeds(seed: int, episodes: int) -> np.ndarray:
    """Returns the reset seeds `[episodes]` that belong to `eval.seed`."""
    return np.array(
        [episode_seed(EVAL_STREAM, seed, i) for i in range(episodes)], np.uint32
    )


def evaluate(
    env: VectorEnv,
    act_fn: ActFn,
    seeds: np.ndarray,
    *,
    reward_offset: float = 1.0,
    progress: Callable[[EpisodeResult], None] | None = None,
) -> list[EpisodeResult]:
    """Returns one result per seed, in order; `progress` is told of each as it ends."""
    results = []
    for result in run_episodes(env, act_fn, seeds, reward_offset):
        results.append(result)
        if progress is not None:
            progress(result)
    return results
