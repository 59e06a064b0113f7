"""The compiled functions of a training run."""

from collections.abc import Callable
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from dynvgd_jax import parallel
from dynvgd_jax.agent import build_method
from dynvgd_jax.config_check import num_offline
from dynvgd_jax.diffusion.policy import Policy
from dynvgd_jax.diffusion.sampler import ddim_decode
from dynvgd_jax.diffusion.schedule import ddim_schedule
from dynvgd_jax.precision import with_precision
from dynvgd_jax.steering import replay as replay_lib
from dynvgd_jax.steering.vgd import Vgd, held_noise, start_noise


class Programs(NamedTuple):
    """The compiled functions of a run."""

    decode: Callable  # (noise kind, params, obs, key, seeds, chunk_index) -> chunk
    explore: Callable  # (params, obs, key, seeds, chunk_index) -> chunk
    act: Callable  # (learner, params, obs, key, seeds, chunk_index, env_steps)
    init_replay: Callable  # (capacity, obs_dim, flat_action_dim, offline) -> replay
    store: Callable  # (replay, transitions) -> replay
    update: Callable  # see steering.vgd.make_vgd


def compile_programs(config: ConfigDict, policy: Policy, method: Vgd) -> Programs:
    """Returns the run's functions, compiled on first use, states donated."""
    schedule = ddim_schedule(policy.schedule, config.ddim_steps)
    chunk_shape = (policy.chunk_len, policy.action_dim)

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

    candidates = config.guidance.candidates
    noise_shape = (candidates, *chunk_shape) if candidates > 1 else chunk_shape

    @jax.jit
    def act(learner, params, obs, key, seeds, chunk_index, env_steps):
        kind = config.acting_noise
        noise = start_noise(kind, key, seeds, chunk_index, noise_shape)
        return method.act(learner, params, obs, noise, env_steps)

    num_devices = jax.local_device_count()
    sizes = {
        "batch_size": config.batch_size,
        "num_envs": config.num_envs,
        "replay.offline_share x batch_size": num_offline(config),
    }
    parallel.require_shares(num_devices, **sizes)
    shard = build_method(config, policy, num_devices)
    learning = parallel.compile_learning(
        num_devices, replay_lib.init_replay, replay_lib.add, shard.update
    )
    return Programs(
        decode=jax.jit(with_precision(decode, config.precision), static_argnums=0),
        explore=jax.jit(with_precision(explore, config.precision)),
        act=lambda learner, *inputs: act(learning.local(learner), *inputs),
        init_replay=learning.init_replay,
        store=learning.store,
        update=learning.update,
    )
