"""DDIM (Song et al. 2021, eta = 0) as DPPO runs it, of a noise-predicting network.

The clean-action estimate is clipped to [-1, 1] and the noise computed anew from the
clipped estimate. A policy whose late steps use another network mixes inside `eps_fn`
(it receives t).
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from dynvgd_jax.diffusion.base import Denoiser, EpsFn
from dynvgd_jax.diffusion.schedule import DDIMSchedule


def make_ddim(make_eps_fn: Callable[[Any], EpsFn], schedule: DDIMSchedule) -> Denoiser:
    """Returns the denoiser of `schedule`.

    Args:
      make_eps_fn: policy parameters -> noise prediction.
      schedule: of K steps.
    """
    last = schedule.num_steps - 1

    def estimate(eps_fn, x_k, k, obs):
        alpha = schedule.alpha[k]
        eps_hat = eps_fn(x_k, jnp.asarray(schedule.t[k]), obs)
        noise_scale = jnp.sqrt(1.0 - alpha)
        x0_hat = jnp.clip((x_k - noise_scale * eps_hat) / jnp.sqrt(alpha), -1.0, 1.0)
        if k == last:  # no noise is left
            return x0_hat, None
        return x0_hat, (x_k - jnp.sqrt(alpha) * x0_hat) / noise_scale

    def advance(x0, eps, k):
        if k == last:
            return x0
        alpha_prev = schedule.alpha_prev[k]
        return jnp.sqrt(alpha_prev) * x0 + jnp.sqrt(1.0 - alpha_prev) * eps

    def renoise(eps_fn, x_next, x0, k, obs):
        if k == last:
            return x0
        # The already advanced x with the old timestep: what the published runs did.
        return advance(x0, eps_fn(x_next, jnp.asarray(schedule.t[k]), obs), k)

    return Denoiser(schedule.num_steps, make_eps_fn, estimate, advance, renoise)
