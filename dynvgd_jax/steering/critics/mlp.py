"""N independent Q networks as one vmapped Flax module; critics that predict a mean."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dynvgd_jax.core.fields import number, one_of
from dynvgd_jax.core.precision import matmul
from dynvgd_jax.core.types import PyTree
from dynvgd_jax.diffusion.network import Dense, draw_params
from dynvgd_jax.steering.critics.base import RANDOM_PAIR, REDUCERS, Critic

LAYER_NORM_EPS = 1e-5
# Up to this many rows, the input gradient's product is written the other way round.
FEW_ROWS = 64

FIELDS = {
    "critic.num": number(1, 1024),
    "critic.width": number(1, 65536),
    "critic.depth": number(1, 64),
    "critic.initial_value": number(-1e6, 1e6),
    "target_reduce": one_of((*REDUCERS, RANDOM_PAIR)),
    "target_clip": number(0.0, 1e9),
}


class QNetwork(nn.Module):
    """One Q network: `depth` times Linear, LayerNorm, Tanh, then Linear."""

    width: int
    depth: int
    outputs: int | None = None  # numbers a row; None is one, without an axis for it

    @nn.compact
    def __call__(self, obs: jax.Array, action: jax.Array) -> jax.Array:
        """Returns `[B]` or `[B, outputs]` of `obs [B, Do]` and `action [B, Ta*Da]`."""
        hidden = jnp.concatenate([obs, action], axis=-1)
        product = few_rows_product if len(hidden) <= FEW_ROWS else matmul
        for i in range(self.depth):
            hidden = Dense(self.width, product, name=f"hidden_{i}")(hidden)
            # The two-pass variance, as in PyTorch: E[x^2] - E[x]^2 loses digits.
            norm = nn.LayerNorm(
                epsilon=LAYER_NORM_EPS, use_fast_variance=False, name=f"norm_{i}"
            )
            hidden = nn.tanh(norm(hidden))
        out = Dense(self.outputs or 1, name="out")(hidden)
        return out[..., 0] if self.outputs is None else out


class CriticEnsemble(nn.Module):
    """`num` critics with their own parameters; every leaf has a leading axis `num`."""

    num: int = 4
    width: int = 2048
    depth: int = 3
    outputs: int | None = None  # of QNetwork

    @nn.compact
    def __call__(self, obs: jax.Array, action: jax.Array) -> jax.Array:
        """Returns Q `[num, B]`, or `[num, B, outputs]`.

        Args:
          obs: `[B, Do]`, or `[num, B, Do]` rows of each critic's own.
          action: `[B, Ta*Da]` or `[num, B, Ta*Da]` likewise.
        """
        stacked = nn.vmap(
            QNetwork,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=0,
            out_axes=0,
            axis_size=self.num,
        )
        # A copy of the inputs for each critic: for shared ones XLA lays the critics
        # side by side in one product and transposes its result, or the gradient.
        if obs.ndim == 2:
            obs, action = (
                jnp.broadcast_to(x, (self.num, *x.shape)) for x in (obs, action)
            )
        critics = stacked(self.width, self.depth, self.outputs, name="critics")
        return critics(obs, action)


def make_ensemble(config: ConfigDict, outputs: int | None = None) -> CriticEnsemble:
    """Returns the module of `config.critic`'s sizes, `outputs` numbers a critic."""
    sizes = config.critic
    return CriticEnsemble(sizes.num, sizes.width, sizes.depth, outputs)


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def init_ensemble(
    ensemble: CriticEnsemble,
    key: jax.Array,
    obs_dim: int,
    flat_action_dim: int,
    initial_value: float | np.ndarray = 0.0,
) -> PyTree:
    """Returns fresh parameters of `ensemble`, every critic drawn by itself.

    Args:
      ensemble: the critic module.
      key: of the draws.
      obs_dim: Do.
      flat_action_dim: Ta*Da.
      initial_value: added to the last layer's drawn bias, in units of the outputs; a
        number, or `[outputs]`.
    """
    obs, action = jnp.zeros((1, obs_dim)), jnp.zeros((1, flat_action_dim))
    shapes = jax.eval_shape(ensemble.init, key, obs, action)
    critics = draw_params(shapes["params"]["critics"], key)
    bias = critics["out"]["bias"]
    bias = bias + jnp.broadcast_to(jnp.asarray(initial_value, jnp.float32), bias.shape)
    critics["out"] = critics["out"] | {"bias": bias}
    return {"params": {"critics": critics}}


class MeanTarget(NamedTuple):
    """Static choices of the TD target."""

    reduce: str = "min"  # key of REDUCERS, over the target critics
    clip: float = 400.0  # Q units; 0 switches the clip off (VGD)


def td_target(
    next_q: jax.Array, reward: jax.Array, discount: jax.Array, options: MeanTarget
) -> jax.Array:
    """Returns `y [B] = r + discount * reduce_i Qtarget_i(s', a')`, clipped.

    Args:
      next_q: `[N, B]` target critics at the next observation and action.
      reward: `[B]`.
      discount: `[B]` factor of the value of what follows; gamma, 0 at an end.
      options: static choices.
    """
    y = reward + discount * REDUCERS[options.reduce](next_q)
    return clip_target(y, options.clip)


def clip_target(y: jax.Array, clip: float) -> jax.Array:
    """Returns `y` clipped to `[-clip, clip]`; as it is for `clip` 0."""
    return jnp.clip(y, -clip, clip) if clip > 0 else y


def critic_loss(q: jax.Array, y: jax.Array) -> jax.Array:
    """Returns `0.5 * sum_i mean_B (q_i - y)^2` for `q [N, B]`, `y [B]`."""
    return 0.5 * jnp.sum(jnp.mean(jnp.square(q - y[None]), axis=1))


def mean_critic(
    ensemble: CriticEnsemble,
    obs_dim: int,
    flat_action_dim: int,
    options: MeanTarget = MeanTarget(),  # noqa: B008, a constant
    initial_value: float = 0.0,
) -> Critic:
    """Returns the `Critic` of an ensemble; see `init_ensemble` for the sizes."""

    def init(key):
        sizes = (obs_dim, flat_action_dim, initial_value)
        return init_ensemble(ensemble, key, *sizes)

    def target(next_q, reward, discount):
        return td_target(next_q, reward, discount, options)

    def mix(y):
        return jnp.mean(y, axis=1)

    return Critic(init, ensemble.apply, lambda q: q, target, critic_loss, mix)


def make_mean_critic(config: ConfigDict, obs_dim: int, flat_action_dim: int) -> Critic:
    """Returns the critics that `config` asks for."""
    return mean_critic(
        make_ensemble(config),
        obs_dim,
        flat_action_dim,
        mean_target(config),
        config.critic.initial_value,
    )


def mean_target(config: ConfigDict) -> MeanTarget:
    """Returns what `config` says of the TD target."""
    reduce = config.target_reduce
    return MeanTarget("min" if reduce == RANDOM_PAIR else reduce, config.target_clip)


@jax.custom_vjp
def few_rows_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns `x @ kernel` with an input gradient that does not copy `kernel`.

    For `dy @ kernel.T` of the ensemble's stack, XLA's CPU backend transposes all
    weights first, which takes ten times as long as the product of a few rows. The
    barriers keep it from turning `kernel @ dy.T` back into that.
    """
    return matmul(x, kernel)


def _few_rows_forward(x, kernel):
    return matmul(x, kernel), (x, kernel)


def _few_rows_backward(inputs, dy):
    x, kernel = inputs
    barrier = jax.lax.optimization_barrier
    dx = barrier(matmul(kernel, barrier(dy.T))).T
    return dx, matmul(x.T, dy)


few_rows_product.defvjp(_few_rows_forward, _few_rows_backward)
