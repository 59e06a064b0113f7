"""Numbers from the audit's rollouts: do the critics know which chunk is better?

S states, K chunks, V variants, N critics, M repeats, as in `branch`. Intervals are 95 %
bootstrap intervals over states, because chunks of one state are not independent.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from dynvgd_jax.audit.ceiling import (
    Reach,
    mean_reach,
    rank_correlation,
    reach_of_states,
)
from dynvgd_jax.audit.records import FirstChunks, Outcomes, Plan

RESAMPLES = 1000
SPLITS = 20  # random halves of the repeats behind the ceiling across states
BINS = 5


class Estimate(NamedTuple):
    """A number with its 95 % bootstrap interval over states."""

    value: float
    low: float
    high: float


def measure(
    plan: Plan, first: FirstChunks, outcomes: Outcomes, td_error: float
) -> dict[str, Any]:
    """Returns all findings as a tree of numbers and Estimates.

    Args:
      plan: of the audit.
      first: first chunks and what the critics say about them.
      outcomes: what came of them.
      td_error: the run's own mean |Q - y|, in Q units.
    """
    rng = np.random.default_rng(plan.seed)
    returns, value = outcomes.discounted[:, :, 0], first.value[:, :, 0]
    return {
        "true_return_mean": float(returns.mean()),
        "success_rate": float(outcomes.success[:, :, 0].mean()),
        "faults": int(outcomes.fault.sum()),
        "q_mean": float(value.mean()),
        "across_states": across_states(value, returns, rng),
        "within_states": within_states(value, returns, rng),
        "variance": variance_shares(returns, rng),
        "calibration": calibration(
            first.q[:, :, 0], first.weight[:, :, 0], returns, td_error, rng
        ),
        "moves": moves(plan, first, outcomes, rng),
    }


def across_states(
    value: np.ndarray, returns: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
    """Do the critics rank states? `value [S, K]`, `returns [S, K, M]`."""
    q, truth = value.mean(1), returns.mean((1, 2))
    halves = [(a.mean(1), b.mean(1)) for a, b in _halves(returns, rng)]

    def best(s):
        if np.ptp(truth[s]) == 0:
            return float("nan")
        found = [rank_correlation(a[s], b[s]) for a, b in halves]
        return ceiling(_mean(found), returns.shape[-1])

    return {
        "spearman": _interval(lambda s: spearman(q[s], truth[s]), len(q), rng),
        "ceiling": _interval(best, len(q), rng),
    }


def within_states(
    value: np.ndarray, returns: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
    """Do they rank the chunks of a state? Mean over states of the rank correlation.

    States in which all chunks bring the same return have no ranks and do not count,
    neither in what is found nor in what perfect critics would reach.
    """
    mean = returns.mean(-1)
    counted = np.ptp(mean, axis=1) > 0
    # critics that tell no chunk of a state from another know nothing: 0
    rho = rank_correlation(value[counted], mean[counted])
    reach = reach_of_states(returns[counted], rng)

    def best(s):
        return mean_reach(Reach(*(part[s] for part in reach)))

    return {
        "spearman": _interval(lambda s: _mean(rho[s]), len(rho), rng),
        "ceiling": _interval(best, len(rho), rng),
        "states_counted": len(rho),
    }


def variance_shares(returns: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """Returns variance components of `returns [S, K, M]`, nested analysis of variance.

    `chunk_share` is what the chunk explains of the variance within states, chunk /
    (chunk + continuation). Estimates of no variance scatter around 0, also below it.
    """
    num_states, chunks, repeats = returns.shape

    def components(s):
        g = returns[s]
        continuation = g.var(axis=2, ddof=1).mean()
        of_chunks = g.mean(2).var(axis=1, ddof=1).mean()
        chunk = of_chunks - continuation / repeats
        state = g.mean((1, 2)).var(ddof=1) - of_chunks / chunks
        return state, chunk, continuation

    def share(s):
        _, chunk, continuation = components(s)
        return _ratio(chunk, chunk + continuation)

    names = ("state", "chunk", "continuation")
    found = components(np.arange(num_states))
    return {name: float(v) for name, v in zip(names, found, strict=True)} | {
        "chunk_share": _interval(share, num_states, rng)
    }


def calibration(
    q: np.ndarray,
    weight: np.ndarray,
    returns: np.ndarray,
    td_error: float,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Compares the ensemble's spread and w with its mean's true error.

    The sampling noise of the true returns is taken out of each root mean square. A bias
    that is the same everywhere moves no gradient; `centred_rms_error` and both rank
    correlations are without it.

    Args:
      q: `[S, K, N]`.
      weight: `[S, K]`.
      returns: `[S, K, M]`.
      td_error: the run's own mean |Q - y|.
      rng: of the bootstrap.
    """
    spread = q.std(axis=-1, ddof=min(1, q.shape[-1] - 1))
    error = q.mean(-1) - returns.mean(-1)
    noise = returns.var(axis=-1, ddof=1) / returns.shape[-1]
    centred = error - error.mean()

    def rms(values):
        return lambda s: _rms(values[s], noise[s])

    def ranks(values):
        return lambda s: spearman(values[s].ravel(), abs(centred[s]).ravel())

    return {
        "bias": _interval(lambda s: error[s].mean(), len(q), rng),
        "rms_error": _interval(rms(error), len(q), rng),
        "centred_rms_error": _interval(rms(centred), len(q), rng),
        "rms_spread": float(np.sqrt(np.mean(np.square(spread)))),
        "td_error": float(td_error),
        "weight_mean": float(weight.mean()),
        "spearman_spread_error": _interval(ranks(spread), len(q), rng),
        "spearman_weight_error": _interval(ranks(weight), len(q), rng),
        "by_spread": _binned(spread, error, noise),
        "by_weight": _binned(weight, error, noise),
    }


def moves(
    plan: Plan, first: FirstChunks, outcomes: Outcomes, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Returns what guiding and each move of a chunk gained over the plain chunk.

    `helped` and `harmed` are shares of the chunks whose mean gain is above and below 0;
    `over_random` is the gain beyond that of a random move of equal length.
    `success_gain` is NaN where no continuation succeeds.
    """
    gain = outcomes.discounted - outcomes.discounted[:, :, :1]
    success = outcomes.success.mean(-1) - outcomes.success[:, :, :1].mean(-1)
    if not outcomes.success.any():  # a task without success, or nothing to compare
        success = np.full_like(success, np.nan)
    predicted = first.value - first.value[:, :, :1]
    variants = plan.variants()
    found = []
    for v, (kind, length) in enumerate(variants):
        if kind == "plain":
            continue
        by_chunk = gain[:, :, v].mean(-1)
        by_state = by_chunk.mean(1)
        entry = {
            "kind": kind,
            "length": length,
            "moved": float(first.moved[:, :, v].mean()),
            "predicted_gain": _state_mean(predicted[:, :, v].mean(1), rng),
            "true_gain": _state_mean(by_state, rng),
            "success_gain": _state_mean(success[:, :, v].mean(1), rng),
            "helped": float((by_chunk > 0).mean()),
            "harmed": float((by_chunk < 0).mean()),
        }
        if kind == "gradient":
            control = gain[:, :, variants.index(("random", length))]
            entry["over_random"] = _state_mean(by_state - control.mean((1, 2)), rng)
        found.append(entry)
    return found


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the rank correlation of two vectors; NaN where one is constant."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(stats.rankdata(a), stats.rankdata(b))[0, 1])


def ceiling(r: float, repeats: int) -> float:
    """Returns the correlation that a perfect critic would reach with M noisy repeats.

    From the correlation r of the means of two halves of h = M // 2 repeats, Spearman
    and Brown: the mean of M has reliability f r / (1 + (f - 1) r), f = M / h; a
    noiseless predictor correlates with it by the square root. 0 where r is not above 0.
    It is for one correlation: of several, their mean says more than each on average.
    """
    if not r > 0:
        return r if np.isnan(r) else 0.0
    f = repeats / (repeats // 2)
    return float(np.sqrt(f * r / (1 + (f - 1) * r)))


def _halves(returns: np.ndarray, rng: np.random.Generator):
    """Pairs of `[S, K]` means over two disjoint random halves of the repeats."""
    repeats = returns.shape[-1]
    half = repeats // 2
    for _ in range(SPLITS):
        order = rng.permutation(repeats)
        a, b = order[:half], order[half : 2 * half]
        yield returns[..., a].mean(-1), returns[..., b].mean(-1)


def _binned(x: np.ndarray, error: np.ndarray, noise: np.ndarray) -> list[dict]:
    """BINS groups of equal size by rising `x`: mean of x and error in each."""
    order = np.argsort(x, axis=None, kind="stable")
    groups = np.array_split(order, min(BINS, len(order)))
    x, error, noise = x.ravel(), error.ravel(), noise.ravel()
    return [
        {
            "mean": float(x[g].mean()),
            "count": len(g),
            "bias": float(error[g].mean()),
            "rms_error": _rms(error[g], noise[g]),
            "centred_rms_error": _rms(error[g] - error.mean(), noise[g]),
        }
        for g in groups
    ]


def _rms(error: np.ndarray, noise: np.ndarray) -> float:
    return float(np.sqrt(max(0.0, np.mean(np.square(error) - noise))))


def _state_mean(by_state: np.ndarray, rng: np.random.Generator) -> Estimate:
    return _interval(lambda s: by_state[s].mean(), len(by_state), rng)


def _interval(
    statistic: Callable[[np.ndarray], float], num_states: int, rng: np.random.Generator
) -> Estimate:
    """`statistic` of all states' indices, and its percentile bootstrap over them."""
    nan = float("nan")
    if num_states == 0:
        return Estimate(nan, nan, nan)
    value = float(statistic(np.arange(num_states)))
    if num_states == 1:
        return Estimate(value, nan, nan)
    with warnings.catch_warnings():  # equal values everywhere are no mistake here
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        values = stats.bootstrap(
            (np.arange(num_states),),
            statistic,
            vectorized=False,
            n_resamples=RESAMPLES,
            method="percentile",
            rng=rng,
        ).bootstrap_distribution
    # A resample without any ranks has no correlation and does not count.
    values = values[np.isfinite(values)]
    if not len(values):
        return Estimate(value, nan, nan)
    low, high = np.quantile(values, (0.025, 0.975))
    return Estimate(value, float(low), float(high))


def _mean(values) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _ratio(a: float, b: float) -> float:
    return float(a / b) if b else float("nan")
