"""The noise actor: a squashed Gaussian over start noises, given the observation.

DSRL (Wagenmaker et al. 2025) learns where the frozen policy's decode begins. The actor
draws `unit` noise in [-1, 1]; the start noise is that times `dsrl.noise_magnitude`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from dynvgd_jax.core.fields import number
from dynvgd_jax.core.types import PyTree
from dynvgd_jax.diffusion.network import Dense, init_on_rows
from dynvgd_jax.steering.critics.mlp import LAYER_NORM_EPS

# Of the Gaussian before it is squashed. Published.
LOG_STD_RANGE = (-20.0, 2.0)
# Added to the squashing's derivative, under its logarithm. Published: it keeps the
# log-probability of noise at the bounds finite.
SQUASH_EPS = 1e-6

FIELDS = {
    "dsrl.actor_width": number(1, 65536),
    "dsrl.actor_depth": number(1, 64),
}


class ActorNetwork(nn.Module):
    """`depth` times Linear, LayerNorm, Tanh, then two heads: mean and log-std."""

    outputs: int
    width: int
    depth: int

    @nn.compact
    def __call__(self, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns mean and clipped log-std `[B, outputs]` of `obs [B, Do]`."""
        hidden = obs
        for i in range(self.depth):
            hidden = Dense(self.width, name=f"hidden_{i}")(hidden)
            norm = nn.LayerNorm(
                epsilon=LAYER_NORM_EPS, use_fast_variance=False, name=f"norm_{i}"
            )
            hidden = nn.tanh(norm(hidden))
        mean = Dense(self.outputs, name="mean")(hidden)
        log_std = Dense(self.outputs, name="log_std")(hidden)
        return mean, jnp.clip(log_std, *LOG_STD_RANGE)


class NoiseActor(NamedTuple):
    """An actor as pure functions."""

    init: Callable[[jax.Array], PyTree]  # key -> parameters
    # (params, obs [B, Do], standard normal draw [B, Ta*Da]) -> (unit noise [B, Ta*Da]
    # in [-1, 1], its log-probability [B], nats); the draw 0 gives the mode
    sample: Callable[..., tuple[jax.Array, jax.Array]]


def make_noise_actor(config: ConfigDict, obs_dim: int, flat_dim: int) -> NoiseActor:
    """Returns the actor of `config.dsrl`'s sizes, for Do and Ta*Da."""
    network = ActorNetwork(flat_dim, config.dsrl.actor_width, config.dsrl.actor_depth)

    def init(key: jax.Array) -> PyTree:
        return {"params": init_on_rows(network, key, (obs_dim,))}

    def sample(params: PyTree, obs: jax.Array, draw: jax.Array):
        mean, log_std = network.apply(params, obs)
        return squashed(mean, log_std, draw)

    return NoiseActor(init, sample)


def squashed(
    mean: jax.Array, log_std: jax.Array, draw: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns `tanh(u)`, `u = mean + exp(log_std) draw`, and its log-probability `[B]`.

    `sum_d log N(u_d; mean, std) - log(1 - tanh(u_d)^2 + SQUASH_EPS)`.

    Args:
      mean: `[B, D]`.
      log_std: `[B, D]`.
      draw: `[B, D]`, standard normal.
    """
    u = mean + jnp.exp(log_std) * draw
    gaussian = -0.5 * (jnp.square(draw) + math.log(2 * math.pi)) - log_std
    # 1 - tanh(u)^2 = 4 e / (1 + e)^2 with e = exp(-2 |u|): the difference would lose
    # its digits near the bounds.
    e = jnp.exp(-2.0 * jnp.abs(u))
    slope = 4.0 * e / jnp.square(1.0 + e)
    return jnp.tanh(u), jnp.sum(gaussian - jnp.log(slope + SQUASH_EPS), axis=-1)
