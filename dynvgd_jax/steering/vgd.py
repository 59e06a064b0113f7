"""Dynamic VGD and VGD: acting and the training call, as pure functions.

`make_vgd` binds the static sizes and choices; everything it returns takes its state and
gives it back. `train.py` compiles them.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dynvgd_jax.core.types import PyTree, Transition
from dynvgd_jax.diffusion.sampler import ddim_decode
from dynvgd_jax.diffusion.schedule import DDIMSchedule
from dynvgd_jax.replay import ring as replay_lib
from dynvgd_jax.replay.ring import ReplayState, Window
from dynvgd_jax.steering.critics import td
from dynvgd_jax.steering.critics.mlp import CriticEnsemble, init_ensemble
from dynvgd_jax.steering.critics.td import CriticState, TdConfig
from dynvgd_jax.steering.guidance import (
    REDUCERS,
    Guidance,
    first_guided_step,
    make_guide_fn,
    summarise,
)

# Folded into an update's key, which is otherwise split in two.
BLUR_KEY = 2


class LearnerState(NamedTuple):
    """Everything that changes while learning."""

    critic: CriticState
    td_error: (
        jax.Array
    )  # [] float32, mean |Q - y| of the previous training call, Q units
    num_updates: jax.Array  # [] int32, gradient steps so far


class VgdConfig(NamedTuple):
    """Static choices of the method."""

    guidance: Guidance
    td: TdConfig
    learning_rate: float
    batch_size: int  # transitions per gradient step
    utd: int  # gradient steps per training call
    guidance_warmup_updates: int = 0  # gradient steps over which lambda ramps up
    weight_warmup_env_steps: int = 0  # control steps before w is applied
    num_offline: int = 0  # of each batch, transitions that replay.offline gives
    window: Window = Window()  # chunks that a transition of the buffer reaches over
    action_noise: float = 0.0  # deviation of what is added to learned actions
    initial_value: float = 0.0  # where the critics start, Q units


class Vgd(NamedTuple):
    """The method's pure functions, see `make_vgd` for their arguments."""

    init: Callable[..., LearnerState]
    act: Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
    update: Callable[..., tuple[LearnerState, dict[str, jax.Array]]]
    learn: Callable[..., tuple[LearnerState, dict[str, jax.Array]]]


def make_vgd(
    config: VgdConfig,
    ensemble: CriticEnsemble,
    schedule: DDIMSchedule,
    make_eps_fn: Callable[[PyTree], Callable],
    obs_dim: int,
    chunk_shape: tuple[int, int],
    average: Callable[[PyTree], PyTree] = lambda tree: tree,
) -> Vgd:
    """Returns `Vgd(init, act, update, learn)`.

    - `init(key) -> LearnerState`
    - `act(state, policy_params, obs [B, Do], noise [B, Ta, Da], env_steps) ->
      (chunk [B, Ta, Da], guide/* scalars)`: the guided decode of exactly that noise.
      Of `noise [B, C, Ta, Da]` all are decoded, and the chunk of highest value acts.
    - `update(state, replay, policy_params, key, env_steps) -> (state, train/*
      scalars)`: the training call, `utd` gradient steps, each on its own batch.
    - `learn(state, policy_params, batches, noise [utd, B, Ta, Da], env_steps) ->
      (state, train/* scalars)`: the gradient steps of `update` on given batches, which
      decode their targets from `noise`, standard normal.

    Args:
      config: static choices.
      ensemble: the critic module.
      schedule: DDIM schedule with K steps.
      make_eps_fn: policy parameters -> `eps_fn(x, t, obs)`.
      obs_dim: Do.
      chunk_shape: (Ta, Da).
      average: mean over the devices, where each holds a part of every batch.

    Raises:
      UserError: `guidance.last_k` or `first_k` does not fit the schedule.
    """
    ddim_steps = len(schedule.t)
    guide_from_k = first_guided_step(config.guidance, ddim_steps)
    flat_dim = chunk_shape[0] * chunk_shape[1]
    optimizer = td.make_optimizer(config.learning_rate)
    guiding = GUIDING_CRITICS[config.guidance.critics]

    def init(key: jax.Array) -> LearnerState:
        params = init_ensemble(ensemble, key, obs_dim, flat_dim, config.initial_value)
        # The target starts as a copy: donated buffers must not be shared.
        target_params = jax.tree.map(jnp.copy, params)
        critic = CriticState(params, target_params, optimizer.init(params))
        return LearnerState(critic, jnp.zeros(()), jnp.zeros((), jnp.int32))

    def lambda_base(num_updates: jax.Array) -> jax.Array:
        scale = jnp.float32(config.guidance.scale)
        if config.guidance_warmup_updates:
            scale *= jnp.minimum(num_updates / config.guidance_warmup_updates, 1.0)
        return scale

    def guided_decode(
        params, td_error, num_updates, eps_fn, x, obs, env_steps, first_k
    ):
        scale = lambda_base(num_updates)
        weight_on = env_steps >= config.weight_warmup_env_steps
        q_fn = lambda obs, flat: ensemble.apply(params, obs, flat)  # noqa: E731
        guide_fn = make_guide_fn(
            config.guidance, ddim_steps, q_fn, td_error, scale, weight_on
        )
        x0, stats = ddim_decode(
            eps_fn,
            schedule,
            x,
            obs,
            first_k=first_k,
            guide_fn=guide_fn,
            guide_from_k=guide_from_k,
            guide_end_k=config.guidance.first_k or ddim_steps,
            guide_estimate=config.guidance.point == "estimate",
        )
        return x0, stats, q_fn, scale

    def act(state, policy_params, obs, noise, env_steps):
        if noise.ndim == 4:
            return choose(state, policy_params, obs, noise, env_steps)
        x0, stats, q_fn, scale = guided_decode(
            guiding(state.critic),
            state.td_error,
            state.num_updates,
            make_eps_fn(policy_params),
            noise,
            obs,
            env_steps,
            first_k=0,
        )
        return x0, summarise(stats, obs, q_fn, config.guidance, scale)

    def choose(state, policy_params, obs, noise, env_steps):
        batch, candidates = noise.shape[:2]
        obs = jnp.repeat(obs, candidates, axis=0)
        noise = noise.reshape(-1, *chunk_shape)
        chunks, metrics = act(state, policy_params, obs, noise, env_steps)
        q = ensemble.apply(guiding(state.critic), obs, chunks.reshape(-1, flat_dim))
        value = REDUCERS[config.guidance.reduce](q).reshape(batch, candidates)
        best = jnp.argmax(value, axis=1)
        chunk = chunks.reshape(batch, candidates, *chunk_shape)[jnp.arange(batch), best]
        gain = jnp.mean(jnp.max(value, axis=1) - jnp.mean(value, axis=1))
        return chunk, metrics | {"guide/candidate_gain": gain}

    def update(state, replay: ReplayState, policy_params, key, env_steps):
        sample_key, noise_key = jax.random.split(key)
        shape = (config.utd, config.batch_size)
        batches = replay_lib.sample(
            replay, sample_key, shape, config.num_offline, config.window
        )
        noise = jax.random.normal(noise_key, (*shape, *chunk_shape))
        batches = blur(key, batches, config.action_noise)
        return learn(state, policy_params, batches, noise, env_steps)

    def learn(state, policy_params, batches: Transition, noise, env_steps):
        shape = (config.utd, config.batch_size)
        eps_fn = make_eps_fn(policy_params)

        # Before the first guided step the decode does not depend on the critics: one
        # large batch outside the scan instead of `utd` small ones inside.
        x_prefix, _ = ddim_decode(
            eps_fn,
            schedule,
            noise.reshape(-1, *chunk_shape),
            batches.next_obs.reshape(-1, obs_dim),
            end_k=guide_from_k,
        )

        def one_step(carry, batch_and_x):
            critic, num_updates = carry
            batch, x = batch_and_x
            next_chunk, *_ = guided_decode(
                guiding(critic),
                state.td_error,
                num_updates,
                eps_fn,
                x,
                batch.next_obs,
                env_steps,
                first_k=guide_from_k,
            )
            next_action = next_chunk.reshape(config.batch_size, flat_dim)
            critic, metrics = td.gradient_step(
                ensemble, optimizer, critic, batch, next_action, config.td, average
            )
            return (critic, num_updates + 1), metrics

        (critic, num_updates), metrics = jax.lax.scan(
            one_step,
            (state.critic, state.num_updates),
            (batches, x_prefix.reshape(*shape, *chunk_shape)),
        )
        metrics = jax.tree.map(jnp.mean, metrics)
        state = LearnerState(critic, metrics["train/td_error_mean"], num_updates)
        return state, metrics

    return Vgd(init, act, update, learn)


def blur(key: jax.Array, batches: Transition, deviation: float) -> Transition:
    """Returns `batches` with Gaussian noise on their actions, clipped to [-1, 1].

    Args:
      key: of the update; it may have been split or drawn from, not folded.
      batches: transitions, any leading axes.
      deviation: standard deviation in normalised action units; 0 changes nothing.
    """
    if not deviation:
        return batches
    noise = jax.random.normal(jax.random.fold_in(key, BLUR_KEY), batches.action.shape)
    action = jnp.clip(batches.action + deviation * noise, -1.0, 1.0)
    return batches._replace(action=action)


def start_noise(
    kind: str, key: jax.Array, seeds: jax.Array, chunk_index: jax.Array, chunk_shape
) -> jax.Array:
    """Returns the start noise `[B, Ta, Da]` of chunk `chunk_index [B]` of each episode.

    It depends on the episode's seed `[B]` (uint32) and the chunk's number alone, not on
    how many environments run side by side. `kind` is a key of START_NOISES.
    """

    def one(seed, index):
        episode_key = jax.random.fold_in(jax.random.fold_in(key, seed), index)
        return jax.random.normal(episode_key, chunk_shape)

    return START_NOISES[kind](jax.vmap(one)(seeds, chunk_index))


def held_noise(
    kinds: tuple[str, ...],
    hold_chunks: tuple[int, ...],
    key: jax.Array,
    seeds: jax.Array,
    chunk_index: jax.Array,
    chunk_shape: tuple[int, ...],
) -> jax.Array:
    """Returns start noise `[B, Ta, Da]` that an episode keeps for several chunks.

    A noise kept for long makes the policy repeat itself, so that what its actions bring
    is not averaged away by the next chunk's. An episode's seed draws kind and length.

    Args:
      kinds: keys of START_NOISES.
      hold_chunks: for how many chunks a noise is kept; every pair of a kind and such
        a number is as likely.
      key: as for `start_noise`, and so are the others.
      seeds: `[B]` uint32.
      chunk_index: `[B]` int32.
      chunk_shape: (Ta, Da).
    """
    pair = (seeds % (len(kinds) * len(hold_chunks))).astype(jnp.int32)
    hold = jnp.asarray(hold_chunks, jnp.int32)[pair % len(hold_chunks)]
    noise = start_noise("randn", key, seeds, chunk_index // hold, chunk_shape)
    by_kind = jnp.stack([START_NOISES[kind](noise) for kind in kinds])
    return by_kind[pair // len(hold_chunks), jnp.arange(len(seeds))]


# The critics' parameters that guide and choose; table of config strings.
GUIDING_CRITICS: dict[str, Callable[[CriticState], PyTree]] = {
    "current": lambda critic: critic.params,
    "target": lambda critic: critic.target_params,
}

# Published acting starts from tanh(randn), TD targets and the base policy from randn.
START_NOISES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh_randn": jnp.tanh,
    "randn": lambda noise: noise,
}
