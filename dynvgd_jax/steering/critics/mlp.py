"""The critics: N independent Q networks as one vmapped Flax module."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dynvgd_jax.core.precision import matmul
from dynvgd_jax.core.types import PyTree
from dynvgd_jax.diffusion.network import Dense, draw_params

LAYER_NORM_EPS = 1e-5
# Up to this many rows, the input gradient's product is written the other way round.
FEW_ROWS = 64


class Critic(nn.Module):
    """One Q network: `depth` times Linear, LayerNorm, Tanh, then Linear(1)."""

    width: int
    depth: int

    @nn.compact
    def __call__(self, obs: jax.Array, action: jax.Array) -> jax.Array:
        """Returns Q `[B]` of `obs [B, Do]` and flattened chunks `action [B, Ta*Da]`."""
        hidden = jnp.concatenate([obs, action], axis=-1)
        product = few_rows_product if len(hidden) <= FEW_ROWS else matmul
        for i in range(self.depth):
            hidden = Dense(self.width, product, name=f"hidden_{i}")(hidden)
            # The two-pass variance, as in PyTorch: E[x^2] - E[x]^2 loses digits.
            norm = nn.LayerNorm(
                epsilon=LAYER_NORM_EPS, use_fast_variance=False, name=f"norm_{i}"
            )
            hidden = nn.tanh(norm(hidden))
        return Dense(1, name="out")(hidden)[..., 0]


class CriticEnsemble(nn.Module):
    """`num` critics with their own parameters; every leaf has a leading axis `num`."""

    num: int = 4
    width: int = 2048
    depth: int = 3

    @nn.compact
    def __call__(self, obs: jax.Array, action: jax.Array) -> jax.Array:
        """Returns Q `[num, B]`."""
        stacked = nn.vmap(
            Critic,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=0,
            out_axes=0,
            axis_size=self.num,
        )
        # A copy of the inputs for each critic: for shared ones XLA lays the critics
        # side by side in one product and transposes its result, or the gradient.
        obs, action = (jnp.broadcast_to(x, (self.num, *x.shape)) for x in (obs, action))
        return stacked(self.width, self.depth, name="critics")(obs, action)


def init_ensemble(
    ensemble: CriticEnsemble,
    key: jax.Array,
    obs_dim: int,
    flat_action_dim: int,
    initial_value: float = 0.0,
) -> PyTree:
    """Returns fresh parameters of `ensemble`, every critic drawn by itself.

    Args:
      ensemble: the critic module.
      key: of the draws.
      obs_dim: Do.
      flat_action_dim: Ta*Da.
      initial_value: added to the last layer's drawn bias, in units of Q.
    """
    obs, action = jnp.zeros((1, obs_dim)), jnp.zeros((1, flat_action_dim))
    shapes = jax.eval_shape(ensemble.init, key, obs, action)
    critics = draw_params(shapes["params"]["critics"], key)
    critics["out"] = critics["out"] | {"bias": critics["out"]["bias"] + initial_value}
    return {"params": {"critics": critics}}


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
