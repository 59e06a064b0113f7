"""Start noises: what a decode begins with, chosen by episode and chunk alone."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from dynvgd_jax.core.fields import each, number, one_of
from dynvgd_jax.core.precision import with_precision
from dynvgd_jax.diffusion.base import sample
from dynvgd_jax.diffusion.policy import Policy
from dynvgd_jax.steering.base import ActInputs, Decision, Setting

# Published acting starts from tanh(randn), TD targets and the base policy from randn.
START_NOISES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh_randn": jnp.tanh,
    "randn": lambda noise: noise,
}

FIELDS = {
    "acting_noise": one_of(START_NOISES),
    "explore.noises": each(one_of(START_NOISES)),
    "explore.hold_chunks": each(number(1, 100_000), least=1),
}


def start_noise(
    kind: str, key: jax.Array, seeds: jax.Array, chunk_index: jax.Array, shape
) -> jax.Array:
    """Returns the start noise `[B, *shape]` of chunk `chunk_index [B]` of each episode.

    It depends on the episode's seed `[B]` (uint32) and the chunk's number alone, not on
    how many environments run side by side. `kind` is a key of START_NOISES.
    """
    keys = _chunk_keys(key, seeds, chunk_index)
    noise = jax.vmap(lambda own: jax.random.normal(own, shape))(keys)
    return START_NOISES[kind](noise)


def uniform_noise(
    bound: float, key: jax.Array, seeds: jax.Array, chunk_index: jax.Array, shape
) -> jax.Array:
    """As `start_noise`, uniform in +- `bound`."""
    keys = _chunk_keys(key, seeds, chunk_index)
    return jax.vmap(
        lambda own: jax.random.uniform(own, shape, minval=-bound, maxval=bound)
    )(keys)


def _chunk_keys(key: jax.Array, seeds: jax.Array, chunk_index: jax.Array) -> jax.Array:
    """A key `[B]` for each chunk of each episode."""

    def one(seed, index):
        return jax.random.fold_in(jax.random.fold_in(key, seed), index)

    return jax.vmap(one)(seeds, chunk_index)


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


def make_explore_noise(setting: Setting) -> Callable[[ActInputs], jax.Array]:
    """Returns what draws the start noise `[B, Ta, Da]` that `config.explore` asks for.

    Without kinds of its own it is of the kind `acting_noise`.
    """
    config = setting.config
    kinds = tuple(config.explore.noises) or (config.acting_noise,)
    holds = tuple(config.explore.hold_chunks)

    def draw(inputs: ActInputs) -> jax.Array:
        of_episode = (inputs.key, inputs.seeds, inputs.chunk_index)
        return held_noise(kinds, holds, *of_episode, setting.chunk_shape)

    return draw


def make_explore(setting: Setting) -> Callable[..., Decision]:
    """Returns `Method.explore`: the unguided policy from noises held for a while."""
    draw = make_explore_noise(setting)

    def explore(params, inputs: ActInputs) -> Decision:
        chunk = sample(setting.denoiser, params, draw(inputs), inputs.obs)
        return Decision(chunk, {}, {})

    return explore


def make_base_decode(config: ConfigDict, policy: Policy) -> Callable[..., jax.Array]:
    """Returns the base policy as evaluations play it, for jit.

    `(kind, params, obs [B, Do], key, seeds [B], chunk_index [B]) -> [B, Ta, Da]`, where
    `kind` is a key of START_NOISES.

    Args:
      config: of a run; `ddim_steps` and `precision` count.
      policy: the frozen policy, whose parameters `params` are.
    """
    denoiser = policy.denoiser(config.ddim_steps)
    chunk_shape = (policy.chunk_len, policy.action_dim)

    def decode(kind, params, obs, key, seeds, chunk_index):
        noise = start_noise(kind, key, seeds, chunk_index, chunk_shape)
        return sample(denoiser, params, noise, obs)

    return with_precision(decode, config.precision)
