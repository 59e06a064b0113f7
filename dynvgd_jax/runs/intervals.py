"""95 % intervals of rates and means."""

import math
import statistics
from collections.abc import Sequence

import numpy as np

# SciPy takes up to a second to import, and most starts come to no interval that needs
# it: the functions import it themselves.

# 97.5 % quantile of the normal distribution: two-sided 95 % intervals.
_Z95 = 1.959963984540054
# Values that the bootstrap draws at once, 8 bytes each.
_BOOTSTRAP_VALUES = 10_000_000


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Returns the 95 % Wilson score interval of a success rate, `(0, 1)` for n = 0.

    Wilson (1927): the rates p with `|successes/n - p| <= z sqrt(p (1 - p) / n)`.

    Raises:
      ValueError: not 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    if n == 0:
        return 0.0, 1.0
    z2 = _Z95**2
    rate = successes / n
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return low, high


def t_interval(
    values: Sequence[float], within: tuple[float, float] = (0.0, 1.0)
) -> tuple[float, float]:
    """Returns the 95 % t interval of the mean of at least two values, clipped.

    Args:
      values: such as rates.
      within: what the mean can be.
    """
    from scipy import special

    mean, count = statistics.fmean(values), len(values)
    error = np.std(values, ddof=1) / math.sqrt(count)
    half = float(special.stdtrit(count - 1, 0.975) * error)
    return max(mean - half, within[0]), min(mean + half, within[1])


def episodes_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Returns the mean of `values [episodes]` and its 95 % bootstrap interval.

    Values that are all equal have the interval of no width.
    """
    mean = float(values.mean())
    if np.ptp(values) == 0:
        return mean, mean, mean
    from scipy import stats

    # all resamples at once would take gigabytes; the draws are the same
    batch = max(1, _BOOTSTRAP_VALUES // len(values))
    rng = np.random.default_rng(0)
    found = stats.bootstrap((values,), np.mean, batch=batch, rng=rng)
    low, high = found.confidence_interval
    return mean, float(low), float(high)
