"""The heart: guided steps, x0 = z + lambda * w * dQ/dz, of any frozen denoiser.

`make_guide_fn` turns an estimate `z` of the clean action into the guided `x0`;
`guided_decode` runs a denoiser's steps and lets it do so in some of them. Formulas and
names: docs/method.md, "Guided decode".
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import number, one_of
from dynvgd_jax.diffusion.base import Denoiser, decode, step, step_range
from dynvgd_jax.steering.critics.base import REDUCERS
from dynvgd_jax.steering.weight import Weighting, dynamic_weight, weighting

# anneal(k, K) in (0, 1]: share of lambda that DDIM step k of K receives.
ANNEALS: dict[str, Callable[[int, int], float]] = {
    "linear": lambda k, num_steps: (k + 1) / num_steps,
    "cosine": lambda k, num_steps: 0.5 - 0.5 * np.cos(np.pi * (k + 1) / num_steps),
    "off": lambda k, num_steps: 1.0,
}


# The clean action that a guided step looks at: "decoded", z by all remaining steps
# (published); "estimate", the step's own x0_hat.
POINTS = ("decoded", "estimate")


FIELDS = {
    "guidance.scale": number(-1e6, 1e6),
    "guidance.last_k": number(0, 100),
    "guidance.first_k": number(0, 100),
    "guidance.point": one_of(POINTS),
    "guidance.time_anneal": one_of(ANNEALS),
    "guidance.reduce": one_of(REDUCERS),
}


class Guidance(NamedTuple):
    """Static choices of the guided decode."""

    scale: float = 0.005  # lambda_base, action units per unit of dQ/da
    last_k: int = 3  # number of last steps guided; 0 means every step
    first_k: int = 0  # of these only the first steps; 0 means no such bound
    point: str = "decoded"  # of POINTS, where the gradient is taken
    time_anneal: str = "linear"  # key of ANNEALS
    reduce: str = "min"  # key of REDUCERS
    dynamic: bool = True  # False: w = 1 and no clip of x0 (VGD)
    weighting: Weighting = Weighting()


def guidance_options(config: ConfigDict, dynamic: bool) -> Guidance:
    """Returns what `config.guidance` says of guided steps; `dynamic`: with w."""
    options = config.guidance
    return Guidance(
        scale=options.scale,
        last_k=options.last_k,
        first_k=options.first_k,
        point=options.point,
        time_anneal=options.time_anneal,
        reduce=options.reduce,
        dynamic=dynamic,
        weighting=weighting(config),
    )


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


def guided_steps(guidance: Guidance, num_steps: int) -> range:
    """Returns the guided ones of the steps 0 .. K-1; an empty range at K where none is.

    Scale 0 means no guidance at all. It must be decided here, because a guided step is
    another sampler even where lambda is tiny: it restarts from `z` with fresh noise of
    the network, so its limit for lambda -> 0 is not plain DDIM.

    Raises:
      UserError: there is guidance, and `last_k` or `first_k` does not fit K.
    """
    if guidance.scale == 0:
        return range(num_steps, num_steps)
    if not 0 <= guidance.last_k <= num_steps:
        raise UserError(
            f"config.guidance.last_k: found {guidance.last_k}, expected at most "
            f"ddim_steps = {num_steps} (0 guides every step)"
        )
    first = num_steps - guidance.last_k if guidance.last_k else 0
    if not (guidance.first_k == 0 or first < guidance.first_k <= num_steps):
        raise UserError(
            f"config.guidance.first_k: found {guidance.first_k}, expected 0 (no bound) "
            f"or {first + 1} to {num_steps}, because last_k = {guidance.last_k} guides "
            f"from step {first} on"
        )
    return range(first, guidance.first_k or num_steps)


def guided_decode(
    denoiser: Denoiser,
    prepared: Any,
    x: jax.Array,
    obs: jax.Array,
    guide_fn: Callable[[jax.Array, jax.Array, int], tuple[jax.Array, Any]],
    steps: range,
    point: str = "decoded",
    first_k: int = 0,
) -> tuple[jax.Array, list[Any]]:
    """Returns the chunks `[B, Ta, Da]` and the statistics of each guided step.

    As published ("decoded"), a guided step k takes the plain step, runs the remaining
    ones from there to an estimate `z` of the clean action, lets `guide_fn` turn it into
    `x0`, and puts noise back on it: the network's at the already advanced x with the
    old timestep, which is what the published runs did. With "estimate", `guide_fn` gets
    the step's own estimate, and the step goes on from what it gives back with its own
    noise: one evaluation of the network.

    Args:
      denoiser: of the policy.
      prepared: from `denoiser.prepare`.
      x: start noise, or for `first_k > 0` what the earlier steps left.
      obs: normalised observations `[B, Do]`.
      guide_fn: `(obs, z, k) -> (x0, statistics)`.
      steps: the guided ones, see `guided_steps`; an empty range is the plain decode,
        bit for bit.
      point: of POINTS.
      first_k: first step to run.
    """
    stats = []
    for k in step_range(denoiser, first_k, None):
        if k not in steps:
            x = step(denoiser, prepared, x, k, obs)
            continue
        z, residual = denoiser.estimate(prepared, x, k, obs)
        if point == "estimate":
            x0, found = guide_fn(obs, z, k)
            x = denoiser.advance(x0, residual, k)
        else:
            x = denoiser.advance(z, residual, k)
            z = decode(denoiser, prepared, x, obs, first_k=k + 1)
            x0, found = guide_fn(obs, z, k)
            x = denoiser.renoise(prepared, x, x0, k, obs)
        stats.append(found)
    return x, stats


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
    num_steps: int,
    q_fn: Callable[[jax.Array, jax.Array], jax.Array],
    td_error: jax.Array,
    scale: jax.Array,
    weight_on: jax.Array | bool = True,
):
    """Returns `guide_fn(obs, z, k) -> (x0, GuideStats)` of one guided step.

    Args:
      guidance: static choices.
      num_steps: K.
      q_fn: `(obs [B, Do], flat action [B, Ta*Da]) -> q [N, B]`, the current critics.
      td_error: [] mean |Q - y| of the previous training call, 0 before the first.
      scale: [] lambda_base times its warm-up ramp.
      weight_on: [] bool; False sets w = 1 (before `weight_warmup_env_steps`).
    """
    anneal = ANNEALS[guidance.time_anneal]

    def guide_fn(obs, z, k):
        flat = z.reshape(z.shape[0], -1)
        grad, q, value = value_gradient(q_fn, guidance.reduce, obs, flat)
        lam = scale * anneal(k, num_steps)
        if guidance.dynamic:
            w = dynamic_weight(q, td_error, guidance.weighting)
            w = jnp.where(weight_on, w, 1.0)
        else:
            w = jnp.ones_like(value)
        push = lam * w[:, None] * grad
        x0 = flat + push
        if guidance.dynamic:
            x0 = jnp.clip(x0, -1.0, 1.0)
        stats = statistics(flat, x0, grad, push, lam, w, value, z.shape)
        return x0.reshape(z.shape), stats

    return guide_fn


def statistics(flat, x0, grad, push, lam, w, value, chunk_shape) -> GuideStats:
    """Returns the statistics of one guided step, from `flat` to `x0`, `[B, Ta*Da]`."""
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
