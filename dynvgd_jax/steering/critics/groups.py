"""Critics that learn in groups: each from batches of its own, towards its own targets.

Critics that share batches and targets seem to share errors, whatever they started from;
two learners on the same data do not (docs/results/proposals.md). What the next
chunks of targets are is not the groups' own: all critics guide them, and train what
edits them.
"""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import number
from dynvgd_jax.core.types import PyTree, Transition
from dynvgd_jax.steering.critics.base import Critic

FIELDS = {"critic.groups": number(1, 1024)}


def num_groups(config: ConfigDict) -> int:
    """Returns how many there are.

    Raises:
      UserError: the critics cannot be shared equally by them.
    """
    groups, num = config.critic.groups, config.critic.num
    if num % groups:
        raise UserError(
            f"config.critic.groups: found {groups}, expected a divisor of critic.num = "
            f"{num}, the critics that they share"
        )
    return groups


def require_one_group(config: ConfigDict) -> None:
    """Raises UserError for a method that trains all critics on the same batches."""
    if config.critic.groups != 1:
        raise UserError(
            f"config.critic.groups: found {config.critic.groups}, expected 1 for "
            f"method {config.method!r}, whose critics all learn from the same batches"
        )


def side_by_side(batches: Transition, groups: int) -> Transition:
    """Returns batches `[utd * G, B, ...]` as `[utd, G * B, ...]`, G groups' each.

    Raises:
      ValueError: there are not as many for every group.
    """
    if groups == 1:
        return batches
    if len(batches.reward) % groups:
        raise ValueError(
            f"found {len(batches.reward)} batches, expected a multiple of {groups}"
        )

    def join(leaf):
        return leaf.reshape(-1, groups * leaf.shape[1], *leaf.shape[2:])

    return jax.tree.map(join, batches)


def in_groups(critic: Critic, groups: int) -> Critic:
    """Returns `critic` as it learns from batches `[G * B]` of `side_by_side`.

    Of N critics the first N/G are the first group's, and the first B rows theirs; and
    so on. Predictions are `[N/G, G * B, ...]`: of each row by the critics of its group,
    so that targets, which look at nothing else, are the group's own.
    """
    if groups == 1:
        return critic

    def predict(params: PyTree, obs: jax.Array, flat: jax.Array):
        num = jax.tree.leaves(params)[0].shape[0]

        def rows_of_each(leaf):
            rows = leaf.reshape(groups, -1, leaf.shape[-1])
            return jnp.repeat(rows, num // groups, axis=0)

        def join(leaf):
            split = leaf.reshape(groups, num // groups, *leaf.shape[1:])
            return jnp.moveaxis(split, 0, 1).reshape(num // groups, -1, *leaf.shape[2:])

        prediction = critic.predict(params, rows_of_each(obs), rows_of_each(flat))
        return jax.tree.map(join, prediction)

    def loss(prediction, y):
        # a mean over the rows of all groups; each group's is over its own
        return groups * critic.loss(prediction, y)

    return critic._replace(predict=predict, loss=loss, groups=groups)
