"""Proposals: chunks that the frozen policy decodes once for every visited observation.

The policy never changes, so neither do they: kept in the replay buffer they are what
acting chooses from and what every later TD target looks at, and a training call decodes
nothing. The maximum over them is EMaQ's operator (Ghasemipour et al. 2021).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import each, number, one_of
from dynvgd_jax.core.types import PyTree, Transition
from dynvgd_jax.diffusion.base import sample
from dynvgd_jax.steering.base import ActInputs, Setting
from dynvgd_jax.steering.critics.base import Critic
from dynvgd_jax.steering.noise import START_NOISES, start_noise

# Name of the stored chunks, [C, Ta, Da], among what belongs to an observation.
PROPOSALS = "proposals"

# Next chunks of a TD target: "guided", decoded anew and guided by the critics
# (published); over the stored proposals the highest target, or the mean target.
BACKUPS = ("guided", "max", "mean")
DTYPES = ("float32", "float16")

FIELDS = {
    "target_backup": one_of(BACKUPS),
    "target_proposals": number(0, 1024),
    "proposals.noises": each(one_of(START_NOISES)),
    "proposals.dtype": one_of(DTYPES),
}


class Proposals(NamedTuple):
    """Static choices."""

    count: int = 1  # C, candidates of an observation
    noises: tuple[str, ...] = ("tanh_randn",)  # their kinds, in equal shares
    backup: str = "guided"  # of BACKUPS
    subset: int = 0  # of the C a gradient step looks at so many; 0 means all
    dtype: str = "float32"  # of storage

    @property
    def stored(self) -> bool:
        """Whether they are kept beside the transitions."""
        return self.backup != "guided"


def proposals_options(setting: Setting) -> Proposals:
    """Returns what the configuration says.

    Raises:
      UserError: there are fewer candidates than their kinds, or than a step looks at.
    """
    config = setting.config
    noises = tuple(config.proposals.noises) or (config.acting_noise,)
    count, subset = config.guidance.candidates, config.target_proposals
    for field, found in (
        ("proposals.noises", len(noises)),
        ("target_proposals", subset),
    ):
        if found > count:
            raise UserError(
                f"config.{field}: found {found}, expected at most "
                f"guidance.candidates = {count}"
            )
    return Proposals(
        count, noises, config.target_backup, subset, config.proposals.dtype
    )


def require_stored(options: Proposals, method: str) -> None:
    """Raises UserError where a method finds no stored proposals for its targets."""
    if not options.stored:
        raise UserError(
            f"config.target_backup: found 'guided', expected 'max' or 'mean' for "
            f"method {method!r}, whose targets look at stored proposals; preset :quick "
            "has them"
        )


def candidate_noise(
    options: Proposals,
    key: jax.Array,
    seeds: jax.Array,
    chunk_index: jax.Array,
    chunk_shape: tuple[int, int],
) -> jax.Array:
    """Returns start noise `[B, C, Ta, Da]`, of each kind one run of the C candidates.

    Arguments as `noise.start_noise`'s; it depends on episode and chunk alone.
    """
    shape = (options.count, *chunk_shape)
    noise = start_noise("randn", key, seeds, chunk_index, shape)
    parts = np.array_split(np.arange(options.count), len(options.noises))
    by_kind = [
        START_NOISES[kind](noise[:, part])
        for kind, part in zip(options.noises, parts, strict=True)
    ]
    return by_kind[0] if len(by_kind) == 1 else jnp.concatenate(by_kind, axis=1)


def make_propose(
    options: Proposals, setting: Setting
) -> Callable[[PyTree, ActInputs], dict[str, jax.Array]]:
    """Returns `Method.propose`: the unguided policy's chunks `[B, C, Ta, Da]`."""

    def propose(params, inputs: ActInputs) -> dict[str, jax.Array]:
        of_episode = (inputs.key, inputs.seeds, inputs.chunk_index)
        noise = candidate_noise(options, *of_episode, setting.chunk_shape)
        return {PROPOSALS: decode_candidates(setting, params, noise, inputs.obs)}

    return propose


def decode_candidates(
    setting: Setting, params: PyTree, noise: jax.Array, obs: jax.Array
) -> jax.Array:
    """Returns the unguided policy's chunks from noise `[B, C, Ta, Da]`."""
    x = noise.reshape(-1, *setting.chunk_shape)
    repeated = jnp.repeat(obs, noise.shape[1], axis=0)
    return sample(setting.denoiser, params, x, repeated).reshape(noise.shape)


def stored_example(options: Proposals, setting: Setting) -> dict[str, np.ndarray]:
    """Returns one row of what `make_propose` draws, in the dtype of storage."""
    shape = (options.count, *setting.chunk_shape)
    return {PROPOSALS: np.zeros(shape, options.dtype)}


def draw_subset(options: Proposals, key: jax.Array, batch: Transition) -> jax.Array:
    """Returns the batch's proposals `[B, C', Ta*Da]` that a gradient step looks at.

    Where the batch tells it, the chunk that was executed at the next observation is one
    more of them: a guided one is judged by the critics that it was guided by.
    """
    stored = batch.next_extras[PROPOSALS]
    chunks = stored.reshape(*stored.shape[:2], -1).astype(jnp.float32)
    if options.subset and options.subset < options.count:
        order = jnp.argsort(jax.random.uniform(key, chunks.shape[:2]), axis=1)
        chosen = order[:, : options.subset, None]
        chunks = jnp.take_along_axis(chunks, chosen, axis=1)
    if batch.followed_by is None:
        return chunks
    action, known = batch.followed_by
    # One of them, drawn, stands for what is not known: their mean stays theirs.
    rows, count = chunks.shape[:2]
    some = jax.random.randint(jax.random.fold_in(key, 1), (rows,), 0, count)
    acted = jnp.where(known[:, None], action, chunks[jnp.arange(rows), some])
    return jnp.concatenate([chunks, acted[:, None]], axis=1)


def target_over_proposals(
    critic: Critic,
    target_params: PyTree,
    batch: Transition,
    proposals: jax.Array,
    backup: str,
) -> jax.Array:
    """Returns `y [B, ...]`, the highest or the mean target of the next observation's C.

    Args:
      critic: whose target it is.
      target_params: Polyak averages, leading axis N.
      batch: transitions as drawn, leading axis B.
      proposals: `[B, C, Ta*Da]` at `batch.next_obs`.
      backup: "max" or "mean".
    """
    size, count = proposals.shape[:2]
    rows = (batch.next_obs, batch.reward, batch.discount)
    obs, reward, discount = (jnp.repeat(leaf, count, axis=0) for leaf in rows)
    flat = proposals.reshape(size * count, -1)
    y = critic.target(critic.predict(target_params, obs, flat), reward, discount)
    each_y = jax.tree.map(lambda leaf: leaf.reshape(size, count, *leaf.shape[1:]), y)
    if backup == "mean":
        return critic.mix(each_y)
    best = jnp.argmax(critic.mean(y).reshape(size, count), axis=1)
    return jax.tree.map(lambda leaf: leaf[jnp.arange(size), best], each_y)
