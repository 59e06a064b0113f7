"""Other weights of guidance than the published one, for `benchmarks.guidance`.

`--variant weight=NAME guidance.scale=0.02` or `weight=NAME:NUMBER ...`:

  shuffled     the published w of another environment: the same values, told nothing
  agreement    how far the critics' gradients agree: |mean_i g_i|^2, less the variance
               of that mean, over |mean_i g_i|^2; it falls to 0 where their spread
               alone explains the mean
  advantage:c  exp(-std_i(A_i) / c), where A_i = Q_i(s, a) - Q_i(s, a_0) and a_0 is the
               base policy's chunk from start noise 0: what the critics disagree about
               in the state cancels. c in Q units
  bounded:d    min(1, d / |lambda g|): no guided step moves the chunk by more than d,
               the norm over the chunk in normalised action units

All clip the guided x0 to [-1, 1], as the published weight does.
"""

import contextlib
from collections.abc import Callable
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.diffusion.base import sample
from dynvgd_jax.steering import guidance, vgd
from dynvgd_jax.steering.weight import WEIGHT_MIN, dynamic_weight


class Seen(NamedTuple):
    """What a weight may look at, in one guided step of B chunks of D numbers."""

    obs: jax.Array  # [B, Do]
    flat: jax.Array  # [B, D] the clean action z
    q: jax.Array  # [N, B]
    grad: jax.Array  # [B, D] of the combined value
    published: jax.Array  # [B] the published w
    lam: jax.Array  # [] lambda_k
    q_fn: Callable  # (obs, flat) -> q
    candidates: int  # rows in a row that belong to one environment
    unsteered: Callable  # obs -> [B, D] the base policy's chunk from start noise 0


def shuffled(seen: Seen) -> jax.Array:
    """The published weight of the environment before."""
    if len(seen.published) == seen.candidates:
        raise UserError(
            "weight=shuffled: found one environment, expected several; raise --num_envs"
        )
    return jnp.roll(seen.published, seen.candidates)


def agreement(seen: Seen) -> jax.Array:
    """Share of the mean gradient's squared norm that is not its own variance."""

    def one(flat, i):
        return jax.grad(lambda a: jnp.sum(seen.q_fn(seen.obs, a)[i]))(flat)

    num_critics = len(seen.q)
    grads = jnp.stack([one(seen.flat, i) for i in range(num_critics)])
    return agreement_of(grads)


def agreement_of(grads: jax.Array) -> jax.Array:
    """Returns `[B]` in [WEIGHT_MIN, 1] of the critics' gradients `[N, B, D]`."""
    squared = jnp.sum(jnp.mean(grads, axis=0) ** 2, axis=-1)
    variance = jnp.sum(jnp.var(grads, axis=0, ddof=1), axis=-1) / len(grads)
    return jnp.clip(1.0 - variance / jnp.maximum(squared, 1e-12), WEIGHT_MIN, 1.0)


def advantage(seen: Seen, scale: float) -> jax.Array:
    """exp(-std_i(A_i) / scale), against the chunk from start noise 0."""
    gain = seen.q - seen.q_fn(seen.obs, seen.unsteered(seen.obs))
    return jnp.clip(jnp.exp(-jnp.std(gain, axis=0, ddof=1) / scale), WEIGHT_MIN, 1.0)


def bounded(seen: Seen, most: float) -> jax.Array:
    """The factor that shortens lambda * g to `most` where it is longer."""
    norm = seen.lam * jnp.linalg.norm(seen.grad, axis=-1)
    return jnp.minimum(1.0, most / jnp.maximum(norm, 1e-12))


PLAIN = {"shuffled": shuffled, "agreement": agreement}
WITH_NUMBER = {"advantage": advantage, "bounded": bounded}


def parse_weight(text: str) -> Callable[[Seen], jax.Array]:
    """Returns the weight that `text` names, such as "shuffled" or "bounded:0.1"."""
    name, colon, number = text.partition(":")
    if name in PLAIN and not colon:
        return PLAIN[name]
    with contextlib.suppress(ValueError):
        if name in WITH_NUMBER and float(number) > 0:
            return lambda seen: WITH_NUMBER[name](seen, float(number))
    known = [*PLAIN, *(f"{n}:NUMBER" for n in WITH_NUMBER)]
    raise UserError(f"weight: found {text!r}, expected one of {', '.join(known)}")


def using(text: str, agent) -> contextlib.AbstractContextManager:
    """A context in which Dynamic VGD's acting is traced with this weight."""
    weigh, policy = parse_weight(text), agent.policy
    if agent.config.critic.num < 2:
        raise UserError(
            f"weight={text}: found one critic, which cannot disagree, expected several"
        )
    candidates = agent.method.candidates
    denoiser = policy.denoiser(agent.config.ddim_steps)
    chunk_shape = (policy.chunk_len, policy.action_dim)

    def unsteered(obs):
        noise = jnp.zeros((len(obs), *chunk_shape))
        return sample(denoiser, policy.params, noise, obs).reshape(len(obs), -1)

    def make_guide_fn(options, num_steps, q_fn, td_error, scale, weight_on=True):
        def guide_fn(obs, z, k):
            flat = z.reshape(len(z), -1)
            grad, q, value = guidance.value_gradient(q_fn, options.reduce, obs, flat)
            published = dynamic_weight(q, td_error, options.weighting)
            lam = scale * guidance.ANNEALS[options.time_anneal](k, num_steps)
            seen = (obs, flat, q, grad, published, lam, q_fn, candidates, unsteered)
            w = jnp.where(weight_on, weigh(Seen(*seen)), 1.0)
            push = lam * w[:, None] * grad
            x0 = jnp.clip(flat + push, -1.0, 1.0)
            found = guidance.statistics(flat, x0, grad, push, lam, w, value, z.shape)
            return x0.reshape(z.shape), found

        return guide_fn

    return mock.patch.object(vgd, "make_guide_fn", make_guide_fn)
