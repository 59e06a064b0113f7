"""Critics that predict quantiles of the return, learned by quantile regression.

Dabney et al. (2018), "Distributional Reinforcement Learning with Quantile Regression".
Critic i predicts `theta_i [M]` at the fractions `tau_m = (m + 1/2) / M`, and its value
is their average. A target y is a distribution too: `[B, K]`, equally likely samples.
"""

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from dynvgd_jax.core.fields import number
from dynvgd_jax.steering.critics.base import Critic
from dynvgd_jax.steering.critics.mlp import (
    CriticEnsemble,
    MeanTarget,
    clip_target,
    init_ensemble,
    make_ensemble,
    mean_target,
)

FIELDS = {
    "critic.quantiles": number(1, 4096),
    "critic.kappa": number(1e-6, 1e9),
}


def mixture(quantiles: jax.Array) -> jax.Array:
    """Returns all critics' `[N, B, M]` as samples `[B, N*M]`."""
    return jnp.moveaxis(quantiles, 0, 1).reshape(quantiles.shape[1], -1)


def least(quantiles: jax.Array) -> jax.Array:
    """Returns of `[N, B, M]` those of the critic with the least mean, `[B, M]`."""
    member = jnp.argmin(jnp.mean(quantiles, axis=-1), axis=0)
    return jnp.take_along_axis(quantiles, member[None, :, None], axis=0)[0]


# By the names of REDUCERS: target critics [N, B, M] -> samples [B, K].
COMBINED = {"min": least, "mean": mixture}


def quantile_target(
    next_quantiles: jax.Array,
    reward: jax.Array,
    discount: jax.Array,
    options: MeanTarget,
) -> jax.Array:
    """Returns samples `y [B, K]`: `r + discount * theta'`, clipped.

    Args:
      next_quantiles: `[N, B, M]` target critics at the next observation and action.
      reward: `[B]`.
      discount: `[B]` factor of the value of what follows; gamma, 0 at an end.
      options: static choices; `reduce` "min" has K = M, "mean" K = N * M.
    """
    samples = COMBINED[options.reduce](next_quantiles)
    return clip_target(reward[:, None] + discount[:, None] * samples, options.clip)


def quantile_loss(quantiles: jax.Array, y: jax.Array, kappa: float) -> jax.Array:
    """Returns the quantile Huber loss `[]` of `quantiles [N, B, M]` and `y [B, K]`.

        sum_i mean_B sum_m mean_k |tau_m - 1{u < 0}| H(u) / kappa,  u = y_k - theta_im
        H(u) = u^2 / 2 for |u| <= kappa, kappa (|u| - kappa / 2) beyond

    Summed over the quantiles as published. The half of the mean kind's loss is H's:
    with one quantile and |u| <= kappa this is that loss over 2 kappa. Published with
    kappa 1; the division is Dabney et al.'s "Implicit Quantile Networks" (2018): the
    slope beyond kappa is the plain quantile loss's for any kappa.
    """
    u = y[None, :, None, :] - quantiles[..., None]
    fractions = (jnp.arange(quantiles.shape[-1]) + 0.5) / quantiles.shape[-1]
    fractions = jnp.broadcast_to(fractions[:, None], u.shape)
    share = jnp.where(u < 0, 1 - fractions, fractions)
    losses = share * optax.losses.huber_loss(u, delta=kappa) / kappa
    return jnp.sum(jnp.mean(losses, axis=(1, 3)))


def quantile_critic(
    ensemble: CriticEnsemble,
    obs_dim: int,
    flat_action_dim: int,
    options: MeanTarget = MeanTarget(),  # noqa: B008, a constant
    kappa: float = 1.0,
    initial_value: float = 0.0,
) -> Critic:
    """Returns the `Critic` of an ensemble with M `outputs`.

    Args:
      ensemble: the module.
      obs_dim: Do.
      flat_action_dim: Ta*Da.
      options: static choices of the target.
      kappa: width of the Huber loss, in units of Q.
      initial_value: of every quantile of fresh critics, but for what is drawn.
    """

    def init(key):
        return init_ensemble(ensemble, key, obs_dim, flat_action_dim, initial_value)

    def mean(quantiles):
        return jnp.mean(quantiles, axis=-1)

    def target(next_quantiles, reward, discount):
        return quantile_target(next_quantiles, reward, discount, options)

    def loss(quantiles, y):
        return quantile_loss(quantiles, y, kappa)

    def mix(y):
        return y.reshape(len(y), -1)

    return Critic(init, ensemble.apply, mean, target, loss, mix)


def make_quantile_critic(
    config: ConfigDict, obs_dim: int, flat_action_dim: int
) -> Critic:
    """Returns the critics that `config` asks for."""
    return quantile_critic(
        make_ensemble(config, config.critic.quantiles),
        obs_dim,
        flat_action_dim,
        mean_target(config),
        config.critic.kappa,
        config.critic.initial_value,
    )
