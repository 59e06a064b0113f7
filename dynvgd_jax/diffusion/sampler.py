"""Decodes noise to action chunks: DDIM with one optional guidance hook, and DDPM.

The sampler knows no networks and no critics: `eps_fn` predicts the noise, and
`guide_fn`, where given, replaces the clean-action estimate. A policy whose late
steps use another network mixes inside `eps_fn` (it receives t) or decodes in two
parts (`first_k`, `end_k`; `t_start`, `t_end`).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dynvgd_jax.diffusion.schedule import DDIMSchedule, Schedule

# (x_t [B, Ta, Da], t [] int32, obs [B, Do]) -> eps_hat [B, Ta, Da]
EpsFn = Callable[[Array, Array, Array], Array]
# (obs [B, Do], z [B, Ta, Da] clean-action estimate, k) -> (x0 [B, Ta, Da], stats)
GuideFn = Callable[[Array, Array, int], tuple[Array, Any]]

MIN_DDPM_STD = 1e-3


def ddim_step(
    eps_fn: EpsFn,
    schedule: DDIMSchedule,
    x_t: Array,
    obs: Array,
    k: int,
    guide: Callable[[Array], Array] = lambda x0_hat: x0_hat,
) -> Float[Array, "b ta da"]:
    """One deterministic step (eta = 0): x at `alpha[k]` to x at `alpha_prev[k]`.

    As in DPPO the clean-action estimate is clipped to [-1, 1] and the noise is
    computed anew from the clipped estimate. `guide` turns that estimate into the one to
    go on with; the noise stays.
    """
    alpha, alpha_prev = schedule.alpha[k], schedule.alpha_prev[k]
    eps_hat = eps_fn(x_t, jnp.asarray(schedule.t[k]), obs)
    noise_scale = jnp.sqrt(1.0 - alpha)
    x0_hat = jnp.clip((x_t - noise_scale * eps_hat) / jnp.sqrt(alpha), -1.0, 1.0)
    if k == schedule.num_steps - 1:
        return guide(x0_hat)  # alpha_prev is 1: the noise has weight 0
    eps_clipped = (x_t - jnp.sqrt(alpha) * x0_hat) / noise_scale
    x0 = guide(x0_hat)
    return jnp.sqrt(alpha_prev) * x0 + jnp.sqrt(1.0 - alpha_prev) * eps_clipped


def ddim_decode(
    eps_fn: EpsFn,
    schedule: DDIMSchedule,
    x: Float[Array, "b ta da"],
    obs: Float[Array, "b do"],
    *,
    first_k: int = 0,
    end_k: int | None = None,
    guide_fn: GuideFn | None = None,
    guide_from_k: int = 0,
    guide_end_k: int | None = None,
    guide_estimate: bool = False,
    final_clip: float | None = None,
) -> tuple[Float[Array, "b ta da"], list[Any]]:
    """Runs the steps `first_k .. end_k - 1` from `x`, some of them guided.

    As published, a guided step k takes the plain step, runs the remaining steps from
    there to an estimate `z` of the clean action, lets `guide_fn` turn it into `x0`,
    and puts the noise of the network back on it. The network is then evaluated at the
    already advanced x with the old timestep t_k: this is what the published runs
    did. After the last step no noise remains, so no evaluation is needed. With
    `guide_estimate`, `guide_fn` gets the step's own estimate of the clean action, and
    the step goes on from what it gives back with its own noise: one evaluation.

    Args:
      eps_fn: noise prediction.
      schedule: of K steps.
      x: start noise, or for `first_k > 0` the x that the earlier steps left.
      obs: normalised observations.
      first_k: first step to run.
      end_k: one past the last step to run; None is K.
      guide_fn: guidance; None or `guide_from_k = K` is plain DDIM, bit for bit.
      guide_from_k: first guided step.
      guide_end_k: one past the last guided step; None is K.
      guide_estimate: guide the step's own estimate instead of the decoded one.
      final_clip: bound on the decoded action, applied after step K - 1 only.

    Returns:
      x after the last step that ran, and what `guide_fn` returned as statistics
      for each guided step, in order.
    """
    num_steps = schedule.num_steps
    end_k = num_steps if end_k is None else end_k
    guide_end_k = num_steps if guide_end_k is None else guide_end_k
    if not 0 <= first_k <= end_k <= num_steps:
        raise ValueError(
            f"found steps {first_k} to {end_k}, expected a range inside 0..{num_steps}"
        )
    stats = []
    for k in range(first_k, end_k):
        guided = guide_fn is not None and guide_from_k <= k < guide_end_k
        if guided and guide_estimate:

            def guide(x0_hat, k=k):
                x0, step_stats = guide_fn(obs, x0_hat, k)
                stats.append(step_stats)
                return x0

            x = ddim_step(eps_fn, schedule, x, obs, k, guide)
            continue
        x = ddim_step(eps_fn, schedule, x, obs, k)
        if not guided:
            continue
        z = x
        for later_k in range(k + 1, num_steps):
            z = ddim_step(eps_fn, schedule, z, obs, later_k)
        x0, step_stats = guide_fn(obs, z, k)
        stats.append(step_stats)
        if k == num_steps - 1:
            x = x0
        else:
            alpha_prev = schedule.alpha_prev[k]
            eps_hat = eps_fn(x, jnp.asarray(schedule.t[k]), obs)
            x = jnp.sqrt(alpha_prev) * x0 + jnp.sqrt(1.0 - alpha_prev) * eps_hat
    if final_clip is not None and end_k == num_steps:
        x = jnp.clip(x, -final_clip, final_clip)
    return x, stats


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
    final_clip: float | None = None,
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
      final_clip: bound on the decoded action, applied after t = 0 only.
    """
    t_start = schedule.num_train_timesteps - 1 if t_start is None else t_start
    alphas_cumprod = jnp.asarray(schedule.alphas_cumprod)
    # The ratios of DPPO's own form x0 = a * x - b * eps, not of (x - c * eps) / d.
    recip = jnp.sqrt(1.0 / alphas_cumprod)
    recip_minus_one = jnp.sqrt(1.0 / alphas_cumprod - 1.0)
    std = (
        jnp.maximum(jnp.sqrt(jnp.asarray(schedule.posterior_variance)), MIN_DDPM_STD)
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
    x, _ = jax.lax.scan(step, x, timesteps)
    if final_clip is not None and t_end == 0:
        x = jnp.clip(x, -final_clip, final_clip)
    return x
