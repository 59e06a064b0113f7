"""DDPM (Ho et al. 2020): ancestral sampling and the loss of training."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from dynvgd_jax.diffusion.arrays import Array
from dynvgd_jax.diffusion.base import EpsFn
from dynvgd_jax.diffusion.schedule import Schedule

MIN_STD = 1e-3


def ddpm_decode(
    eps_fn: EpsFn,
    schedule: Schedule,
    key: Array,
    x: Float[Array, "b ta da"],
    obs: Float[Array, "b do"],
    *,
    t_start: int | None = None,
    t_end: int = 0,
    randn_clip: float = 3.0,
) -> Float[Array, "b ta da"]:
    """Ancestral sampling, from timestep `t_start` down to `t_end` inclusive.

    `x_{t-1} = mean + std * noise` with the moments of q(x_{t-1} | x_t, x0_hat),
    std floored at 1e-3 except at t = 0, where no noise is added. The noise of step
    t is drawn from `fold_in(key, t)`, so decoding in two parts changes nothing.

    Args:
      eps_fn: noise prediction; t is traced here.
      schedule: of training.
      key: PRNG key.
      x: start noise, or the x that timestep `t_start + 1` left.
      obs: normalised observations.
      t_start: first timestep; None is T - 1.
      t_end: last timestep to run.
      randn_clip: bound on the added noise.
    """
    t_start = schedule.num_train_timesteps - 1 if t_start is None else t_start
    alphas_cumprod = jnp.asarray(schedule.alphas_cumprod)
    # The ratios of DPPO's own form x0 = a * x - b * eps, not of (x - c * eps) / d.
    recip = jnp.sqrt(1.0 / alphas_cumprod)
    recip_minus_one = jnp.sqrt(1.0 / alphas_cumprod - 1.0)
    std = (
        jnp.maximum(jnp.sqrt(jnp.asarray(schedule.posterior_variance)), MIN_STD)
        .at[0]
        .set(0.0)
    )
    x0_coef = jnp.asarray(schedule.posterior_x0_coef)
    xt_coef = jnp.asarray(schedule.posterior_xt_coef)

    def step(x_t, t):
        eps_hat = eps_fn(x_t, t, obs)
        x0_hat = jnp.clip(recip[t] * x_t - recip_minus_one[t] * eps_hat, -1.0, 1.0)
        mean = x0_coef[t] * x0_hat + xt_coef[t] * x_t
        noise = jax.random.normal(jax.random.fold_in(key, t), x_t.shape)
        noise = jnp.clip(noise, -randn_clip, randn_clip)
        return mean + std[t] * noise, None

    timesteps = jnp.arange(t_start, t_end - 1, -1, dtype=jnp.int32)
    return jax.lax.scan(step, x, timesteps)[0]


def denoising_loss(
    eps_fn: EpsFn,
    schedule: Schedule,
    key: Array,
    obs: Float[Array, "b do"],
    actions: Float[Array, "b ta da"],
) -> Float[Array, ""]:
    """Mean squared error of the predicted noise at uniform t (DDPM's simple loss)."""
    t_key, noise_key = jax.random.split(key)
    batch = len(obs)
    t = jax.random.randint(t_key, (batch,), 0, schedule.num_train_timesteps)
    noise = jax.random.normal(noise_key, actions.shape)
    signal = jnp.asarray(schedule.alphas_cumprod)[t][:, None, None]
    x_t = jnp.sqrt(signal) * actions + jnp.sqrt(1.0 - signal) * noise
    return jnp.mean((eps_fn(x_t, t, obs) - noise) ** 2)
