"""Policies as evaluations play them, their noise drawn by episode and chunk alone."""

from collections.abc import Callable

import jax
import numpy as np
from ml_collections import ConfigDict

from dynvgd_jax.agent import Agent
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import SEED_END, each, number, one_of
from dynvgd_jax.diffusion.policy import Policy
from dynvgd_jax.envs.rollout import ActFn
from dynvgd_jax.steering.base import ActInputs, Metrics
from dynvgd_jax.steering.noise import START_NOISES, make_base_decode

# Of every evaluation, a run's own and one by itself.
FIELDS = {
    "reward_offset": number(-1e6, 1e6),
    "eval.noises": each(one_of(START_NOISES), least=1),
    "eval.episodes": number(1, 1_000_000),
    "eval.num_envs": number(1, 4096),
    "eval.seed": number(0, SEED_END),
}


def base_act(config: ConfigDict, policy: Policy, kind: str) -> ActFn:
    """Returns the base policy.

    Args:
      config: `ddim_steps`, `precision` and `eval.seed`, which draws the noise.
      policy: the frozen policy.
      kind: of its start noise, a key of START_NOISES.
    """
    decode = jax.jit(make_base_decode(config, policy), static_argnums=0)
    params, key = jax.device_put(policy.params), jax.random.key(config.eval.seed)

    def act(obs, seeds, chunk_index):
        return _finite(decode(kind, params, obs, key, seeds, chunk_index))

    return act


def evaluation_inputs(obs, key, seeds, chunk_index, env_steps) -> ActInputs:
    """Returns what acting gets to know in an evaluation; see `ActInputs`."""
    where = (obs, key, seeds, chunk_index)
    return ActInputs(*where, env_steps=env_steps, evaluating=True)


def steered_act(
    agent: Agent, on_metrics: Callable[[Metrics], None] = lambda metrics: None
) -> ActFn:
    """Returns the steered policy as its run's evaluations play it.

    Args:
      agent: whose configuration's `eval.seed` draws the noise.
      on_metrics: called with every decision's `guide/*` scalars, on the device.
    """
    decide = jax.jit(agent.method.act)
    params = jax.device_put(agent.policy.params)
    key = jax.random.key(agent.config.eval.seed)

    def act(obs, seeds, chunk_index):
        inputs = evaluation_inputs(obs, key, seeds, chunk_index, agent.env_steps)
        decision = decide(agent.learner, params, inputs)
        on_metrics(decision.metrics)
        return _finite(decision.chunk)

    return act


def _finite(chunk: jax.Array) -> np.ndarray:
    """The chunk on the host; UserError where it is not finite."""
    chunk = np.asarray(chunk)
    if not np.isfinite(chunk).all():
        raise UserError(
            "the actions are not finite: the policy's weights, its normalization.npz "
            "or the critics are; evaluate another checkpoint or policy"
        )
    return chunk
