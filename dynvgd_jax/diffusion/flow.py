"""Rectified flow (Liu et al. 2023): Euler steps along a velocity, and its loss.

Time t runs from 0 (noise) to 1 (the clean chunk), `x_t = t x_1 + (1 - t) noise`, and
the network's velocity is the expected `x_1 - noise`. Openpi counts t the other way.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.diffusion.arrays import Array
from dynvgd_jax.diffusion.base import Denoiser

# (x_t [B, Ta, Da], t [] or [B] float32 in [0, 1), obs [B, Do]) -> velocity [B, Ta, Da]
VelocityFn = Callable[[Array, Array, Array], Array]


def make_euler(
    make_velocity_fn: Callable[[Any], VelocityFn], num_steps: int
) -> Denoiser:
    """Returns the denoiser of K Euler steps, step k from time k / K to (k + 1) / K.

    Through x at time t with velocity v leads the straight line from the noise `x - t v`
    to the clean chunk `x + (1 - t) v`, and a step goes on along it. The clean chunk is
    clipped to [-1, 1], where all actions lie, as DDIM's is, and the line then leads
    there: of an exact velocity, a mean over data, nothing is ever clipped. (ReinFlow
    clips x itself after each step, also where it is still mostly noise, and gives its
    pre-trained policies the times k / (K - 1).)

    `renoise` looks along the line through `x_{k+1}` at its own time. The diffusion
    policies' published steps take the time before; there `x_1` would count as noise.

    Args:
      make_velocity_fn: policy parameters -> velocity.
      num_steps: K, at least 1.

    Raises:
      UserError: K is below 1.
    """
    if num_steps < 1:
        raise UserError(f"found ddim_steps {num_steps}, expected at least 1")

    def line(velocity_fn, x, k, obs):
        """Both ends of the line through x at the time of step k < K."""
        t = k / num_steps
        velocity = velocity_fn(x, jnp.asarray(t, jnp.float32), obs)
        x1_hat = jnp.clip(x + (1.0 - t) * velocity, -1.0, 1.0)
        return x1_hat, (x - t * x1_hat) / (1.0 - t)

    def advance(x1, noise, k):
        if k == num_steps - 1:
            return x1
        t = (k + 1) / num_steps
        return t * x1 + (1.0 - t) * noise

    def renoise(velocity_fn, x_next, x1, k, obs):
        if k == num_steps - 1:
            return x1
        return advance(x1, line(velocity_fn, x_next, k + 1, obs)[1], k)

    return Denoiser(num_steps, make_velocity_fn, line, advance, renoise)


def flow_loss(
    velocity_fn: VelocityFn,
    key: Array,
    obs: Float[Array, "b do"],
    actions: Float[Array, "b ta da"],
) -> Float[Array, ""]:
    """Mean squared error of the velocity at t uniform in [0, 1), one for each chunk."""
    t_key, noise_key = jax.random.split(key)
    t = jax.random.uniform(t_key, (len(obs),))
    noise = jax.random.normal(noise_key, actions.shape)
    share = t[:, None, None]
    x_t = share * actions + (1.0 - share) * noise
    return jnp.mean((velocity_fn(x_t, t, obs) - (actions - noise)) ** 2)
