"""Pre-training of a policy as pure functions: action chunks and gradient steps."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from dynvgd_jax.core.precision import with_precision
from dynvgd_jax.diffusion.arrays import Array
from dynvgd_jax.diffusion.base import Kind, Spec

# Draws behind the validation loss: chunk, time and noise, fixed for a run.
VALIDATION_DRAWS = 4096


class Chunks(NamedTuple):
    """Demonstrations laid end to end, and where a chunk of actions may start."""

    obs: Any  # [steps, Do] float32, normalised
    actions: Any  # [steps, Da] float32, normalised
    starts: Any  # [chunks] int32, steps from which Ta actions of one episode follow


class CloningState(NamedTuple):
    """What pre-training carries from step to step."""

    params: Any
    ema_params: Any  # running mean of params, the policy that is saved
    opt_state: Any
    step: jax.Array  # [] int32, gradient steps so far


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The optimiser's numbers; published values of DPPO unless they say otherwise."""

    num_steps: int  # gradient steps of the whole training, for the learning rate
    batch_size: int = 256
    learning_rate: float = 1e-4  # peak
    min_learning_rate: float = 1e-5  # at the first and the last step
    warmup_steps: int = 0  # linear rise to the peak
    weight_decay: float = 1e-6  # AdamW, decoupled, on every leaf as in PyTorch
    ema_decay: float = 0.995  # per update of the mean
    ema_every_steps: int = 10  # gradient steps between two updates of the mean
    ema_start_step: int = 0  # before it the mean is a copy of the weights


def make_chunks(
    obs: np.ndarray, actions: np.ndarray, lengths: np.ndarray, chunk_len: int
) -> Chunks:
    """Returns every full chunk inside every episode (DPPO's stitched sequences).

    An episode of L steps gives the L - Ta + 1 starts 0 .. L - Ta; shorter ones none.

    Args:
      obs: `[steps, Do]` of all episodes, one after another.
      actions: `[steps, Da]`.
      lengths: `[episodes]`, steps of each.
      chunk_len: Ta.
    """
    ends = np.cumsum(lengths)
    ranges = [
        np.arange(end - length, end - chunk_len + 1)
        for end, length in zip(ends, lengths, strict=True)
    ]
    return Chunks(
        obs=np.asarray(obs, np.float32),
        actions=np.asarray(actions, np.float32),
        starts=np.concatenate(ranges).astype(np.int32),
    )


def take(
    chunks: Chunks, index: Array, chunk_len: int
) -> tuple[Float[Array, "b do"], Float[Array, "b ta da"]]:
    """Returns obs `[B, Do]` and action chunks `[B, Ta, Da]` by chunk number."""
    start = jnp.asarray(chunks.starts)[index]
    steps = start[:, None] + jnp.arange(chunk_len)[None, :]
    return jnp.asarray(chunks.obs)[start], jnp.asarray(chunks.actions)[steps]


def learning_rate(recipe: Recipe) -> optax.Schedule:
    """From the minimum to the peak linearly, and back along half a cosine."""
    return optax.warmup_cosine_decay_schedule(
        init_value=recipe.min_learning_rate,
        peak_value=recipe.learning_rate,
        warmup_steps=recipe.warmup_steps,
        decay_steps=max(recipe.num_steps, recipe.warmup_steps + 1),
        end_value=recipe.min_learning_rate,
    )


def init_state(kind: Kind, spec: Spec, recipe: Recipe, key: Array) -> CloningState:
    """Returns fresh weights, their mean equal to them, at step 0."""
    params = kind.init(spec, key)
    return CloningState(
        params=params,
        ema_params=jax.tree.map(jnp.copy, params),  # own buffers: both are donated
        opt_state=_optimizer(recipe).init(params),
        step=jnp.zeros((), jnp.int32),
    )


def make_update(kind: Kind, spec: Spec, recipe: Recipe) -> Callable:
    """Returns `update(state, key, chunks, num_steps) -> (state, mean loss [])`.

    `num_steps` gradient steps run inside one call. Step i draws its batch, uniform
    with replacement, times, and noise from `fold_in(key, i)`, so that cutting a
    training into calls differently changes nothing. (DPPO shuffles by epochs.)
    """
    optimizer = _optimizer(recipe)
    loss_fn = functools.partial(kind.loss, spec)

    def gradient_step(state, key, chunks):
        index_key, loss_key = jax.random.split(jax.random.fold_in(key, state.step))
        index = jax.random.randint(
            index_key, (recipe.batch_size,), 0, chunks.starts.shape[0]
        )
        obs, actions = take(chunks, index, spec.network.chunk_len)
        loss, grads = jax.value_and_grad(loss_fn)(state.params, loss_key, obs, actions)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        step = state.step + 1
        # A branch, so that the steps between two updates do not touch the mean.
        ema_params = jax.lax.cond(
            step % recipe.ema_every_steps == 0,
            lambda ema: _follow(recipe, ema, params, step),
            lambda ema: ema,
            state.ema_params,
        )
        return CloningState(params, ema_params, opt_state, step), loss

    def update(state, key, chunks, num_steps):
        def body(_, carry):
            state, total = carry
            state, loss = gradient_step(state, key, chunks)
            return state, total + loss

        start = (state, jnp.zeros((), jnp.float32))
        state, total = jax.lax.fori_loop(0, num_steps, body, start)
        return state, total / num_steps

    return update


def make_validation(
    kind: Kind,
    spec: Spec,
    chunks: Chunks,
    key: Array,
    *,
    precision: str = "float32",
) -> Callable[[Any], jax.Array]:
    """Returns `params -> loss []` on a fixed draw of chunks, times, and noise.

    The draw depends on `key` alone, so that losses of different steps compare.
    `precision` is of matrix products, a key of `core.precision.PRECISIONS`.
    """
    index_key, loss_key = jax.random.split(key)
    count = len(chunks.starts)
    index = jax.random.randint(index_key, (VALIDATION_DRAWS,), 0, count)
    obs, actions = take(chunks, index, spec.network.chunk_len)

    def loss(params, obs, actions):
        return kind.loss(spec, params, loss_key, obs, actions)

    validate = jax.jit(with_precision(loss, precision))
    return lambda params: validate(params, obs, actions)


def _optimizer(recipe: Recipe) -> optax.GradientTransformation:
    return optax.adamw(learning_rate(recipe), weight_decay=recipe.weight_decay)


def _follow(recipe: Recipe, ema_params, params, step):
    """One update of the mean; a copy before `ema_start_step`."""
    decay = jnp.where(step < recipe.ema_start_step, 0.0, recipe.ema_decay)
    return jax.tree.map(lambda e, p: decay * e + (1.0 - decay) * p, ema_params, params)
