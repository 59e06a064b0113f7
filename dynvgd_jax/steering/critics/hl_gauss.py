"""Critics that learn a mean by classification: HL-Gauss, a histogram of Gaussians.

Farebrother et al. (2024), "Stop Regressing: Training Value Functions via Classification
for Scalable Deep RL", after Imani and White (2018). Predictions and targets alike are
log-probabilities of bins; a value is the expected bin centre.

Unlike published, some bins lie beyond the range of the targets: cut off at the range's
end, a target there would be drawn inwards by 0.6 bins, in every backup anew. And the
best return of a task, 0 with `reward_offset` 1, is such an end.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from ml_collections import ConfigDict

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import check_range, number
from dynvgd_jax.steering.critics.base import Critic
from dynvgd_jax.steering.critics.mlp import (
    CriticEnsemble,
    MeanTarget,
    init_ensemble,
    make_ensemble,
    mean_target,
    td_target,
)

# Standard deviation of a target's Gaussian, in bins. Published.
SIGMA = 0.75
# Bins beyond either end of the range: 4 deviations.
ROOM = 3
# Stands for a probability 0, whose logarithm is no number.
TINY = np.finfo(np.float32).tiny

FIELDS = {
    "critic.bins": number(1, 65536),
    "critic.v_min": number(-1e9, 1e9),
    "critic.v_max": number(-1e9, 1e9),
}


class Bins(NamedTuple):
    """Bins of one width that cover the targets."""

    v_min: float = -400.0  # least target, in units of Q
    v_max: float = 0.0  # greatest target
    inner: int = 100  # bins between them

    @property
    def total(self) -> int:
        """Bins with those beyond the ends."""
        return self.inner + 2 * ROOM

    @property
    def width(self) -> float:
        """Of a bin, in units of Q."""
        return (self.v_max - self.v_min) / self.inner

    @property
    def edges(self) -> np.ndarray:
        """`[total + 1]` ascending, in widths from `v_min`."""
        return np.arange(-ROOM, self.inner + ROOM + 1)

    @property
    def centres(self) -> np.ndarray:
        """`[total]` float64, in units of Q."""
        return self.v_min + self.width * (self.edges[:-1] + 0.5)


def project(y: jax.Array, bins: Bins) -> jax.Array:
    """Returns log-probabilities `[..., total]`: what a Gaussian has in each bin.

    It stands around `y [...]`, clipped to the bins' range.
    """
    place = (jnp.clip(y, bins.v_min, bins.v_max) - bins.v_min) / bins.width
    edges = jnp.broadcast_to(jnp.float32(bins.edges), (*y.shape, bins.total + 1))
    below = ndtr((edges - place[..., None]) / SIGMA)
    inside = jnp.diff(below) / (below[..., -1:] - below[..., :1])
    return jnp.log(jnp.maximum(inside, TINY))


def expected(log_probs: jax.Array, bins: Bins) -> jax.Array:
    """Returns the expected bin centre `[...]` of `log_probs [..., total]`."""
    centres = jnp.broadcast_to(jnp.float32(bins.centres), log_probs.shape)
    return jnp.sum(jnp.exp(log_probs) * centres, axis=-1)


def cross_entropy(log_probs: jax.Array, y: jax.Array) -> jax.Array:
    """Returns `-sum_i mean_B sum_bins p_y log p_i`, `[N, B, total]`, `[B, total]`."""
    return -jnp.sum(jnp.mean(jnp.exp(y)[None] * log_probs, axis=1))


def start_logits(value: float, bins: Bins) -> np.ndarray:
    """Returns logits `[total]` of the widest distribution whose mean is `value`.

    Of all with this mean the one of most entropy is exponential in the centres; a
    narrow one would have to unlearn the bins that it excludes.
    """
    # SciPy takes half a second of a start: only who has these critics waits for it.
    from scipy import optimize, special

    places = np.arange(bins.total) - (bins.total - 1) / 2
    wanted = (value - bins.centres.mean()) / bins.width

    def error(slope):
        return special.softmax(slope * places) @ places - wanted

    slope = optimize.brentq(error, -50.0, 50.0)
    return np.float32(slope * places)


def hl_gauss_critic(
    ensemble: CriticEnsemble,
    obs_dim: int,
    flat_action_dim: int,
    options: MeanTarget = MeanTarget(),  # noqa: B008, a constant
    bins: Bins = Bins(),  # noqa: B008, a constant
    initial_value: float = 0.0,
) -> Critic:
    """Returns the `Critic` of an ensemble with `bins.total` outputs.

    Args:
      ensemble: the module.
      obs_dim: Do.
      flat_action_dim: Ta*Da.
      options: static choices of the target.
      bins: of predictions and targets.
      initial_value: mean of fresh critics, but for what is drawn; in the bins' range.
    """
    logits = start_logits(initial_value, bins)

    def init(key):
        return init_ensemble(ensemble, key, obs_dim, flat_action_dim, logits)

    def predict(params, obs, flat):
        return jax.nn.log_softmax(ensemble.apply(params, obs, flat))

    def mean(log_probs):
        return expected(log_probs, bins)

    def target(next_log_probs, reward, discount):
        y = td_target(mean(next_log_probs), reward, discount, options)
        return project(y, bins)

    def mix(y):
        return jax.nn.logsumexp(y, axis=1) - jnp.log(y.shape[1])

    return Critic(init, predict, mean, target, cross_entropy, mix)


def make_hl_gauss_critic(
    config: ConfigDict, obs_dim: int, flat_action_dim: int
) -> Critic:
    """Returns the critics that `config` asks for.

    Raises:
      UserError: the range is empty, or `critic.initial_value` is outside.
    """
    sizes = config.critic
    if not sizes.v_min < sizes.v_max:
        raise UserError(
            f"config.critic.v_min: found {sizes.v_min}, expected less than v_max = "
            f"{sizes.v_max}, for the bins of critics of kind 'hl_gauss'"
        )
    check_range("critic.initial_value", sizes.initial_value, sizes.v_min, sizes.v_max)
    bins = Bins(sizes.v_min, sizes.v_max, sizes.bins)
    return hl_gauss_critic(
        make_ensemble(config, bins.total),
        obs_dim,
        flat_action_dim,
        mean_target(config),
        bins,
        sizes.initial_value,
    )
