"""A saved run as the audit sees it: its two policies and its critics, compiled."""

import functools

import jax
import jax.numpy as jnp

from dynvgd_jax.agent import Agent
from dynvgd_jax.audit.records import Judgement, Subject
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.precision import with_precision
from dynvgd_jax.steering.noise import start_noise


def make_subject(agent: Agent, noise_kind: str, seed: int) -> Subject:
    """Returns the functions that `branch` plays with.

    Args:
      agent: of a run that has trained its critics.
      noise_kind: key of START_NOISES, for every chunk that is decoded.
      seed: of all noise.

    Raises:
      UserError: there are no critics, or they have never been trained.
    """
    config, policy, method = agent.config, agent.policy, agent.method
    if method.value is None:
        raise UserError(
            f"method {config.method!r} has no critics of chunks; audit a run of "
            "another method"
        )
    if int(agent.learner.num_updates) == 0:
        raise UserError(
            f"the critics at {agent.env_steps:,} control steps have never been "
            "trained; audit a later checkpoint"
        )
    key = jax.random.key(seed)
    chunk_shape = (policy.chunk_len, policy.action_dim)
    candidates = method.candidates
    noise_shape = (candidates, *chunk_shape) if candidates > 1 else chunk_shape

    @jax.jit
    def noise(use, ids, chunk_index):
        use_key = jax.random.fold_in(key, use)
        return start_noise(noise_kind, use_key, ids, chunk_index, noise_shape)

    @jax.jit
    def judge(learner, obs, chunk):
        def summed_value(flat):
            value = method.value(learner, obs, flat.reshape(chunk.shape))
            return jnp.sum(value.combined), value

        flat = chunk.reshape(len(chunk), -1)
        # `method.value` says its own products' precision, not that of their gradients
        grad = with_precision(jax.grad(summed_value, has_aux=True), config.precision)
        gradient, value = grad(flat)
        judged = (value.members, value.combined, gradient.reshape(chunk.shape))
        return Judgement(*judged, value.weight)

    def decode(obs, noise):
        first = noise if candidates == 1 else noise[:, 0]
        return policy.sample(obs, first, config.ddim_steps, precision=config.precision)

    return Subject(
        noise=noise,
        decode=decode,
        steer=agent.act,
        judge=functools.partial(judge, agent.learner),
    )
