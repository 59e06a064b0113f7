"""The heart: one guided step, x0 = z + lambda * w * dQ/dz, as a `guide_fn`.

The sampler (`diffusion.sampler.ddim_decode`) hands a guide function the estimate `z` of
the clean action after DDIM step `k` and continues from the `x0` it gets back. Formulas:
SPEC of the published code, "guided decode"; names as there.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynvgd_jax.core.errors import UserError

WEIGHT_MIN = 1e-3

# Combines the ensemble's values [N, ...] into one [...]; table of config strings.
REDUCERS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "min": lambda q: jnp.min(q, axis=0),
    "mean": lambda q: jnp.mean(q, axis=0),
}

# anneal(k, K) in (0, 1]: share of lambda that DDIM step k of K receives.
ANNEALS: dict[str, Callable[[int, int], float]] = {
    "linear": lambda k, ddim_steps: (k + 1) / ddim_steps,
    "cosine": lambda k, ddim_steps: 0.5 - 0.5 * np.cos(np.pi * (k + 1) / ddim_steps),
    "off": lambda k, ddim_steps: 1.0,
}


# The clean action that a guided step looks at: "decoded", z by all remaining steps
# (published); "estimate", the step's own x0_hat.
POINTS = ("decoded", "estimate")


class Guidance(NamedTuple):
    """Static choices of the guided decode."""

    scale: float = 0.005  # lambda_base, action units per unit of dQ/da
    last_k: int = 3  # number of last DDIM steps guided; 0 means every step
    first_k: int = 0  # of these only the first DDIM steps; 0 means no such bound
    point: str = "decoded"  # of POINTS, where the gradient is taken
    time_anneal: str = "linear"  # key of ANNEALS
    reduce: str = "min"  # key of REDUCERS
    critics: str = "current"  # key of vgd.GUIDING_CRITICS
    dynamic: bool = True  # False: w = 1 and no clip of x0 (VGD)
    beta: float = 1.0  # sensitivity of w to disagreement and TD error
    c_local: float = 5.0  # Q units, scale of the ensemble's standard deviation
    c_global: float = 100.0  # Q units, scale of the TD error


class GuideStats(NamedTuple):
    """Statistics of one guided step, means over the batch except `x0` and `q_pre`."""

    lambda_mean: jax.Array  # [] lambda_k
    weight_mean: jax.Array  # [] w
    grad_norm: jax.Array  # [] |g|
    weighted_grad_norm: jax.Array  # [] |lambda_k w g|
    delta_norm: jax.Array  # [] |x0 - z|, after the clip
    cosine: jax.Array  # [] cosine of the angle between x0 - z and g
    cosine_pos_frac: jax.Array  # [] share of samples with cosine > 0
    q_pre: jax.Array  # [] combined Q at z
    x0: jax.Array  # [B, Ta, Da] guided clean action, for Q after the step


def first_guided_step(guidance: Guidance, ddim_steps: int) -> int:
    """Returns the index of the first guided DDIM step; `ddim_steps` where none is.

    Scale 0 means no guidance at all. It must be decided here, because a guided step is
    another sampler even where lambda is tiny: it restarts from `z` with fresh noise of
    the network, so its limit for lambda -> 0 is not plain DDIM.

    Raises:
      UserError: `last_k` or `first_k` does not fit `ddim_steps`.
    """
    if not 0 <= guidance.last_k <= ddim_steps:
        raise UserError(
            f"guidance.last_k is {guidance.last_k}, expected 0 (every step) to "
            f"ddim_steps = {ddim_steps}; lower it"
        )
    first = ddim_steps - guidance.last_k if guidance.last_k else 0
    if not (guidance.first_k == 0 or first < guidance.first_k <= ddim_steps):
        raise UserError(
            f"guidance.first_k is {guidance.first_k}, expected 0 (no bound) or "
            f"{first + 1} to ddim_steps = {ddim_steps}, because last_k = "
            f"{guidance.last_k} guides from step {first} on"
        )
    return ddim_steps if guidance.scale == 0 else first


def local_weight(q: jax.Array, beta: float, c_local: float) -> jax.Array:
    """Returns `exp(-beta * std_i(q_i) / c_local)`, `[B]`, for `q [N, B]`.

    The standard deviation is the sample one (ddof = 1); a single critic cannot
    disagree, so its weight is 1.
    """
    if q.shape[0] == 1:
        return jnp.ones_like(q[0])
    return jnp.exp(-beta * jnp.std(q, axis=0, ddof=1) / c_local)


def dynamic_weight(q: jax.Array, td_error: jax.Array, guidance: Guidance) -> jax.Array:
    """Returns `w [B]` in `[1e-3, 1]` for `q [N, B]` and the scalar `td_error`."""
    w_global = jnp.exp(-guidance.beta * td_error / guidance.c_global)
    w = local_weight(q, guidance.beta, guidance.c_local) * w_global
    return jnp.clip(w, WEIGHT_MIN, 1.0)


def value_gradient(
    q_fn: Callable[[jax.Array, jax.Array], jax.Array],
    reduce: str,
    obs: jax.Array,
    flat: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the combined value's gradient `[B, Ta*Da]`, q `[N, B]` and value `[B]`.

    One ensemble forward and one input-backward give all three.

    Args:
      q_fn: `(obs [B, Do], flat action [B, Ta*Da]) -> q [N, B]`.
      reduce: key of REDUCERS.
      obs: `[B, Do]`.
      flat: `[B, Ta*Da]`, where the gradient is taken.
    """

    def summed_value(flat):
        q = q_fn(obs, flat)
        value = REDUCERS[reduce](q)
        return jnp.sum(value), (q, value)

    grad, (q, value) = jax.grad(summed_value, has_aux=True)(flat)
    return grad, q, value


def make_guide_fn(
    guidance: Guidance,
    ddim_steps: int,
    q_fn: Callable[[jax.Array, jax.Array], jax.Array],
    td_error: jax.Array,
    scale: jax.Array,
    weight_on: jax.Array | bool = True,
):
    """Returns `guide_fn(obs, z, k) -> (x0, GuideStats)` for the sampler.

    Args:
      guidance: static choices.
      ddim_steps: K.
      q_fn: `(obs [B, Do], flat action [B, Ta*Da]) -> q [N, B]`, the current critics.
      td_error: [] mean |Q - y| of the previous training call, 0 before the first.
      scale: [] lambda_base times its warm-up ramp.
      weight_on: [] bool; False sets w = 1 (before `weight_warmup_env_steps`).
    """
    anneal = ANNEALS[guidance.time_anneal]

    def guide_fn(obs, z, k):
        flat = z.reshape(z.shape[0], -1)
        grad, q, value = value_gradient(q_fn, guidance.reduce, obs, flat)
        lam = scale * anneal(k, ddim_steps)
        if guidance.dynamic:
            w = jnp.where(weight_on, dynamic_weight(q, td_error, guidance), 1.0)
        else:
            w = jnp.ones_like(value)
        push = lam * w[:, None] * grad
        x0 = flat + push
        if guidance.dynamic:
            x0 = jnp.clip(x0, -1.0, 1.0)
        stats = _statistics(flat, x0, grad, push, lam, w, value, z.shape)
        return x0.reshape(z.shape), stats

    return guide_fn


def _statistics(flat, x0, grad, push, lam, w, value, chunk_shape) -> GuideStats:
    delta = x0 - flat
    grad_norm = jnp.linalg.norm(grad, axis=-1)
    delta_norm = jnp.linalg.norm(delta, axis=-1)
    # Where either vector vanishes there is no angle; 0 keeps the mean finite.
    norms = grad_norm * delta_norm
    dot = jnp.sum(delta * grad, axis=-1)
    cosine = jnp.where(norms > 0, dot / jnp.where(norms > 0, norms, 1.0), 0.0)
    return GuideStats(
        lambda_mean=jnp.asarray(lam, jnp.float32),
        weight_mean=jnp.mean(w),
        grad_norm=jnp.mean(grad_norm),
        weighted_grad_norm=jnp.mean(jnp.linalg.norm(push, axis=-1)),
        delta_norm=jnp.mean(delta_norm),
        cosine=jnp.mean(cosine),
        cosine_pos_frac=jnp.mean(cosine > 0),
        q_pre=jnp.mean(value),
        x0=x0.reshape(chunk_shape),
    )


def summarise(
    stats: list[GuideStats], obs: jax.Array, q_fn, guidance: Guidance, scale: jax.Array
) -> dict[str, jax.Array]:
    """Returns the `guide/*` scalars: means over the guided steps of one decode.

    Q after each step is evaluated here, for all steps in one ensemble call, because a
    small batch spends its time reading the weights. Without guided steps: no scalars.
    """
    if not stats:
        return {}
    steps = jax.tree.map(lambda *leaves: jnp.stack(leaves), *stats)
    num_steps, batch = steps.x0.shape[:2]
    flat = steps.x0.reshape(num_steps * batch, -1)
    q_post = q_fn(jnp.tile(obs, (num_steps, 1)), flat)
    q_post = jnp.mean(REDUCERS[guidance.reduce](q_post))
    mean = {
        name: jnp.mean(getattr(steps, name))
        for name in GuideStats._fields
        if name != "x0"
    }
    ratio = mean["weighted_grad_norm"] / jnp.maximum(mean["delta_norm"], 1e-12)
    mean |= {
        "lambda_base": jnp.asarray(scale, jnp.float32),
        "ratio_weighted_grad_to_delta": ratio,
        "q_post": q_post,
        "delta_q": q_post - mean["q_pre"],
    }
    return {f"guide/{name}": value for name, value in mean.items()}
