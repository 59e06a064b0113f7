"""A saved run as the audit sees it: its two policies and its critics, compiled."""

import jax

from dynvgd_jax.agent import Agent, method_options, num_candidates
from dynvgd_jax.audit.records import Judgement, Subject
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.precision import with_precision
from dynvgd_jax.steering.critics.mlp import CriticEnsemble
from dynvgd_jax.steering.guidance import dynamic_weight, value_gradient
from dynvgd_jax.steering.vgd import GUIDING_CRITICS, start_noise


def make_subject(agent: Agent, noise_kind: str, seed: int) -> Subject:
    """Returns the functions that `branch` plays with.

    Args:
      agent: of a run that has trained its critics.
      noise_kind: key of START_NOISES, for every chunk that is decoded.
      seed: of all noise.

    Raises:
      UserError: the critics have never been trained.
    """
    if int(agent.learner.num_updates) == 0:
        raise UserError(
            f"the critics at {agent.env_steps:,} control steps have never been "
            "trained; audit a later checkpoint"
        )
    config, policy = agent.config, agent.policy
    guidance = method_options(config).guidance
    ensemble = CriticEnsemble(
        config.critic.num, config.critic.width, config.critic.depth
    )
    key = jax.random.key(seed)
    candidates = num_candidates(config)
    noise_shape = (policy.chunk_len, policy.action_dim)
    if candidates > 1:
        noise_shape = (candidates, *noise_shape)

    @jax.jit
    def noise(use, ids, chunk_index):
        use_key = jax.random.fold_in(key, use)
        return start_noise(noise_kind, use_key, ids, chunk_index, noise_shape)

    @jax.jit
    def compiled_judge(params, td_error, obs, chunk):
        def q_fn(obs, flat):
            return ensemble.apply(params, obs, flat)

        flat = chunk.reshape(len(chunk), -1)
        gradient, q, value = with_precision(value_gradient, config.precision)(
            q_fn, guidance.reduce, obs, flat
        )
        weight = dynamic_weight(q, td_error, guidance)
        return Judgement(q, value, gradient.reshape(chunk.shape), weight)

    def judge(obs, chunk):
        learner = agent.learner
        params = GUIDING_CRITICS[guidance.critics](learner.critic)
        return compiled_judge(params, learner.td_error, obs, chunk)

    def decode(obs, noise):
        first = noise if candidates == 1 else noise[:, 0]
        return policy.sample(obs, first, config.ddim_steps)

    return Subject(
        noise=noise,
        decode=decode,
        steer=agent.act,
        judge=judge,
    )
