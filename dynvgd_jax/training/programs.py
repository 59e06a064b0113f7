"""The compiled functions of a training run."""

from collections.abc import Callable
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from dynvgd_jax.agent import build_method, num_candidates
from dynvgd_jax.core.config_check import num_offline
from dynvgd_jax.core.precision import with_precision
from dynvgd_jax.diffusion.policy import Policy
from dynvgd_jax.diffusion.sampler import ddim_decode
from dynvgd_jax.diffusion.schedule import ddim_schedule
from dynvgd_jax.replay.memory import REPLAY_AXES
from dynvgd_jax.steering.vgd import blur, held_noise, start_noise
from dynvgd_jax.training import placement as parallel
from dynvgd_jax.training.placement import Placement


class Programs(NamedTuple):
    """The compiled functions of a run; what is per seed is a sequence.

    Outputs of the last two are as `Placement.collect` takes them.
    """

    decode: Callable  # (noise kind, obs, key, seeds, chunk_index) -> chunk
    explore: Callable  # (obs, key, seeds, chunk_index) -> chunk of the first rollouts
    act_one: Callable  # one seed's (learner, obs, key, seeds, chunk_index, env_steps)
    put: Callable  # learners per seed -> the learner that `act` and `update` take
    # (learner, obs, key, seeds, chunk_index, all per seed, env_steps)
    # -> (chunks, metrics)
    act: Callable
    # (learner, data, keys per seed, env_steps) -> (learner, metrics); `data` is what
    # replay_memory gives
    update: Callable


def compile_programs(
    config: ConfigDict, policy: Policy, placement: Placement
) -> Programs:
    """Returns the run's functions, compiled on first use, states donated.

    Raises:
      UserError: batches or environments cannot be shared by the devices.
    """
    parallel.require_shares(
        placement,
        **{
            "batch_size": config.batch_size,
            "num_envs": config.num_envs,
            "replay.offline_share x batch_size": num_offline(config),
        },
    )
    schedule = ddim_schedule(policy.schedule, config.ddim_steps)
    chunk_shape = (policy.chunk_len, policy.action_dim)
    method = build_method(config, policy, placement)

    def decode_noise(params, obs, noise):
        eps_fn = policy.eps_fn_maker(schedule)(params)
        return ddim_decode(eps_fn, schedule, noise, obs)[0]

    def decode(kind, params, obs, key, seeds, chunk_index):
        noise = start_noise(kind, key, seeds, chunk_index, chunk_shape)
        return decode_noise(params, obs, noise)

    def explore(params, obs, key, seeds, chunk_index):
        kinds = tuple(config.explore.noises) or (config.acting_noise,)
        holds = tuple(config.explore.hold_chunks)
        noise = held_noise(kinds, holds, key, seeds, chunk_index, chunk_shape)
        return decode_noise(params, obs, noise)

    candidates = num_candidates(config)
    noise_shape = (candidates, *chunk_shape) if candidates > 1 else chunk_shape

    def act(learner, params, obs, key, seeds, chunk_index, env_steps):
        kind = config.acting_noise
        noise = start_noise(kind, key, seeds, chunk_index, noise_shape)
        return method.act(learner, params, obs, noise, env_steps)

    def learn(learner, batches, params, key, env_steps):
        # [B, utd, ...]: devices share the first axis
        batches = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), batches)
        noise = jax.random.normal(key, (*batches.reward.shape, *chunk_shape))
        batches = blur(key, batches, config.critic.action_noise)
        return method.learn(learner, params, batches, noise, env_steps)

    on_device = config.replay.memory == "device"
    learning = parallel.compile_learning(
        placement,
        REPLAY_AXES if on_device else 0,
        update=method.update if on_device else learn,
        act=act,
    )
    params = learning.replicate(policy.params)
    local_params = parallel.local(params)
    decode = jax.jit(with_precision(decode, config.precision), static_argnums=0)
    explore = jax.jit(with_precision(explore, config.precision))
    act_one = jax.jit(act)
    return Programs(
        decode=lambda kind, *inputs: decode(kind, local_params, *inputs),
        explore=lambda *inputs: explore(local_params, *inputs),
        act_one=lambda learner, *inputs: act_one(learner, local_params, *inputs),
        put=learning.put,
        act=lambda learner, *inputs: learning.act(learner, params, *inputs),
        update=lambda learner, data, *inputs: learning.update(
            learner, data, params, *inputs
        ),
    )
