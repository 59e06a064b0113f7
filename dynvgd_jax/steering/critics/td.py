"""Temporal-difference learning of any critics: one gradient step and its scalars."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dynvgd_jax.core.fields import number
from dynvgd_jax.core.types import PyTree, Transition
from dynvgd_jax.steering.critics.base import Critic

PAIR_KEY = 3  # folded into an update's key, which is otherwise split in two

FIELDS = {
    "learning_rate": number(0.0, 1.0),
    "target_tau": number(0.0, 1.0),
}


class CriticState(NamedTuple):
    """What learns."""

    params: PyTree  # current critics, leading axis N
    target_params: PyTree  # Polyak average of `params`
    opt_state: Any  # Adam's moments


def fresh_critics(
    critic: Critic, optimizer: optax.GradientTransformation, key: jax.Array
) -> CriticState:
    """Returns critics that have learned nothing."""
    params = critic.init(key)
    # The target starts as a copy: donated buffers must not be shared.
    target_params = jax.tree.map(jnp.copy, params)
    return CriticState(params, target_params, optimizer.init(params))


def polyak(target: PyTree, current: PyTree, tau: float) -> PyTree:
    """Returns `(1 - tau) * target + tau * current`."""
    return jax.tree.map(lambda t, c: (1.0 - tau) * t + tau * c, target, current)


def next_target(
    critic: Critic, target_params: PyTree, batch: Transition, next_action: jax.Array
) -> Any:
    """Returns `y [B, ...]` of the chunks `next_action [B, Ta*Da]` at `next_obs`."""
    prediction = critic.predict(target_params, batch.next_obs, next_action)
    return critic.target(prediction, batch.reward, batch.discount)


def random_pair(key: jax.Array, critic: Critic) -> Critic:
    """Returns `critic` with the predictions of two drawn members, of one its only."""

    def predict(params, obs, flat):
        prediction = critic.predict(params, obs, flat)
        num = jax.tree.leaves(prediction)[0].shape[0]
        two = jax.random.permutation(key, num)[:2]
        return jax.tree.map(lambda leaf: leaf[two], prediction)

    return critic._replace(predict=predict)


def gradient_step(
    critic: Critic,
    optimizer: optax.GradientTransformation,
    state: CriticState,
    batch: Transition,
    y: Any,
    tau: float,
    average: Callable[[PyTree], PyTree] = lambda tree: tree,
) -> tuple[CriticState, dict[str, jax.Array]]:
    """Returns the state after one Adam and one Polyak step, and scalar metrics.

    Args:
      critic: what is trained.
      optimizer: Adam as `make_optimizer` builds it.
      state: critics before the step.
      batch: transitions as drawn, leading axis B.
      y: `[B, ...]` of `next_target`, or of the kind's own other targets.
      tau: Polyak step of the target critics.
      average: mean over the devices that share the batch, of gradients and metrics.
    """
    y = jax.lax.stop_gradient(y)

    def loss_fn(params):
        prediction = critic.predict(params, batch.obs, batch.action)
        return critic.loss(prediction, y), critic.mean(prediction)

    (loss, q), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    grads = average(grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    target_params = polyak(state.target_params, params, tau)
    metrics = average(td_metrics(q, critic.mean(y), loss, critic.groups)) | {
        "train/critic_grad_norm": global_norm(grads)
    }
    return CriticState(params, target_params, opt_state), metrics


def training_call(
    critic: Critic,
    state: Any,
    batches: Transition,
    own: PyTree,
    key: jax.Array,
    step: Callable[[Any, Critic, Transition, Any], tuple[Any, dict[str, jax.Array]]],
    *,
    pairs: bool,
) -> tuple[Any, dict[str, jax.Array]]:
    """Returns a method's state after one `step` a batch, and their mean scalars.

    Args:
      critic: whose targets they are.
      state: with `num_updates` and `td_error`, which are set here.
      batches: transitions `[utd, B, ...]`.
      own: arrays `[utd, ...]`, what else each step needs.
      key: of the update; it may have been split, not folded.
      step: `(state, critic of the targets, batch, own) -> (state, scalars)`.
      pairs: targets are those of two members, drawn for every step.
    """
    keys = jax.random.split(jax.random.fold_in(key, PAIR_KEY), len(batches.reward))

    def one_step(now, xs):
        batch, own_part, pair_key = xs
        judge = random_pair(pair_key, critic) if pairs else critic
        now, metrics = step(now, judge, batch, own_part)
        return now._replace(num_updates=now.num_updates + 1), metrics

    state, metrics = jax.lax.scan(one_step, state, (batches, own, keys))
    metrics = jax.tree.map(jnp.mean, metrics)
    return state._replace(td_error=metrics["train/td_error_mean"]), metrics


def global_norm(tree: PyTree) -> jax.Array:
    """Returns the 2-norm of all leaves together, of the ensemble's shapes."""
    return jax.lax.platform_dependent(tree, cpu=_cpu_norm, default=_norm)


def _norm(tree: PyTree) -> jax.Array:
    """On GPUs XLA takes these sums in Adam's first pass over the gradient."""
    squares = (jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree))
    return jnp.sqrt(sum(squares))


def _cpu_norm(tree: PyTree) -> jax.Array:
    """Summed axis by axis behind barriers, over the critics first.

    As one large sum XLA's CPU backend writes all squares to memory before it adds them,
    and adds those of a matrix, all axes at once, several times slower than rows.
    """
    parts = [jnp.square(leaf) for leaf in jax.tree.leaves(tree)]
    while any(part.ndim > 1 for part in parts):
        parts = [jnp.sum(part, axis=0) if part.ndim > 1 else part for part in parts]
        parts = jax.lax.optimization_barrier(parts)
    return jnp.sqrt(sum(jnp.sum(part) for part in parts))


def td_metrics(
    q: jax.Array, y: jax.Array, loss: jax.Array, groups: int = 1
) -> dict[str, jax.Array]:
    """Returns the `train/*` scalars of one gradient step for `q [N, B]`, `y [B]`.

    Of G groups (`groups.in_groups`) `q` is `[N/G, G*B]`. Every critic has its own mean.
    How far they disagree is known within a group, whose critics see the same rows; with
    one critic a group it is not known.
    """
    td_error = jnp.abs(q - y[None])
    apart = q.reshape(len(q), groups, -1)
    each = (apart[i, group] for group in range(groups) for i in range(len(q)))
    metrics = {
        "train/critic_loss": loss,
        **{f"train/q{i}_mean": jnp.mean(own) for i, own in enumerate(each)},
        "train/td_error_mean": jnp.mean(td_error),
        "train/td_error_std": jnp.std(td_error),
    }
    if groups > 1 and len(q) == 1:
        return metrics
    spread = jnp.max(q, axis=0) - jnp.min(q, axis=0)
    ddof = min(1, q.shape[0] - 1)
    return metrics | {
        "train/q_std_inter_critic": jnp.mean(jnp.std(q, axis=0, ddof=ddof)),
        "train/q_diff_max_min": jnp.mean(spread),
    }


def make_optimizer(learning_rate: float) -> optax.GradientTransformation:
    """Returns PyTorch's Adam: betas 0.9 and 0.999, eps 1e-8, no weight decay."""
    return optax.adam(learning_rate, eps=1e-8)
