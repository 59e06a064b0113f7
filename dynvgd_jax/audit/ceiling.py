"""How well perfect critics would rank the chunks of a state, for the noise there is.

Model, per state: true values of K chunks are normal with variance v sigma^2, and each
of M returns of a chunk adds normal noise of variance sigma^2. v is another in each
state, 0 where the choice does not matter; how it is distributed is estimated from all
states together (nonparametric maximum likelihood on a grid, as in empirical Bayes). The
answer is the mean over states of the rank correlation between true values, drawn given
what was seen, and the means that were seen.

Halves of the repeats and the Spearman-Brown formula answer it wrongly here: halves are
constant or unrelated in some states and closely related in others, and the formula of a
mean is not the mean of the formula.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats

# v: chunk variance in units of the variance of one return.
RATIOS = np.concatenate([[0.0], np.geomspace(0.02, 200.0, 17)])
DRAWS = 100  # of the true values, per state and ratio
_EM_STEPS = 120
# As if so many states more had been seen in which the choice does not matter: few
# states could else be explained too well, by a few large ratios.
_NOTHING_STATES = 0.3
# Log likelihood that differences must explain beyond chance to count as any.
_LEAST_GAIN = 0.5


class Reach(NamedTuple):
    """What each state says about each of RATIOS; see `mean_reach`."""

    likelihood: np.ndarray  # [S, R] of what was seen in the state, up to a factor
    correlation: np.ndarray  # [S, R] of true values with the means seen, expected


def reach_of_states(returns: np.ndarray, rng: np.random.Generator) -> Reach:
    """Returns what `mean_reach` needs.

    Args:
      returns: `[S, K, M]`, K and M at least 2; in no state are all K means equal.
      rng: of the draws.
    """
    states, chunks, repeats = returns.shape
    mean = returns.mean(-1)
    between = repeats * np.square(mean - mean.mean(1, keepdims=True)).sum(1)
    within = np.square(returns - mean[..., None]).sum((1, 2))
    within = np.maximum(within, 1e-12 * between)  # no noise at all: F is large
    freedom = chunks - 1, chunks * (repeats - 1)
    f = (between / freedom[0]) / (within / freedom[1])
    likelihood = np.empty((states, len(RATIOS)))
    correlation = np.zeros_like(likelihood)  # of chunks that do not differ: 0
    for r, ratio in enumerate(RATIOS):
        # The means' variance is `wider` times that of noise alone.
        wider = 1 + repeats * ratio
        likelihood[:, r] = stats.f.pdf(f / wider, *freedom) / wider
        if ratio == 0:
            continue
        share = repeats * ratio / wider  # of a mean's deviation that is the chunk's
        chi2 = rng.chisquare(chunks * repeats - 1, (states, DRAWS))
        variance = (within + between / wider)[:, None] / chi2
        noise = rng.normal(size=(states, DRAWS, chunks))
        noise *= np.sqrt(share * variance / repeats)[..., None]
        true = share * mean[:, None] + noise
        correlation[:, r] = rank_correlation(true, mean[:, None]).mean(1)
    best = likelihood.max(1, keepdims=True)
    return Reach(likelihood / np.where(best > 0, best, 1), correlation)


def mean_reach(reach: Reach) -> float:
    """Returns the mean over states of the rank correlation of perfect critics.

    0 where differences between chunks explain what was seen no better than chance.
    """
    likelihood = np.maximum(reach.likelihood, 1e-300)
    weight = np.full(len(RATIOS), 1 / len(RATIOS))
    for _ in range(_EM_STEPS):
        before = weight
        # The states' posteriors, `likelihood * weight` less its factor, summed.
        weight = before * ((1 / (likelihood @ before)) @ likelihood)
        weight[0] += _NOTHING_STATES
        weight /= weight.sum()
    posterior = likelihood * before
    posterior /= posterior.sum(1, keepdims=True)
    gain = np.log(likelihood @ weight).sum() - np.log(likelihood[:, 0]).sum()
    if gain < _LEAST_GAIN:
        return 0.0
    return float((posterior * reach.correlation).sum(1).mean())


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns Spearman's rank correlation along the last axis, 0 where one is constant.

    Args:
      a: `[..., K]`.
      b: `[..., K]`, of a shape that goes with it.
    """
    a, b = _centred_ranks(a), _centred_ranks(b)
    size = np.sqrt(np.square(a).sum(-1) * np.square(b).sum(-1))
    return (a * b).sum(-1) / np.where(size > 0, size, 1)


def _centred_ranks(x: np.ndarray) -> np.ndarray:
    """Twice the ranks less their mean; ties share one."""
    return sum(np.sign(x - x[..., i, None]) for i in range(x.shape[-1]))
