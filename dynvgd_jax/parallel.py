"""Data-parallel training over the devices of this process; the only room with pmap.

Every device holds a shard of the replay buffer and draws its share of each batch from
it. Gradients and statistics are averaged over the devices, so the learner's state stays
the same on all of them, bit for bit; it is passed as one replicated tree without a
device axis. With one device nothing of this is in the program.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from dynvgd_jax.errors import UserError
from dynvgd_jax.types import PyTree

AXIS = "devices"


class Learning(NamedTuple):
    """The compiled functions that touch every device; states are donated."""

    init_replay: Callable  # (capacity, obs_dim, flat_action_dim, offline) -> replay
    store: Callable  # (replay, transitions) -> replay
    # (learner, replay, policy_params, transitions, key, env_steps) -> (learner, replay,
    # metrics)
    update: Callable
    local: Callable  # learner -> the same on one device, without a copy


def mean_over_devices(tree: PyTree) -> PyTree:
    """Returns the mean of `tree` over all devices, the same bits on each."""
    return jax.lax.pmean(tree, AXIS)


def require_shares(num_devices: int, **sizes: int) -> None:
    """Raises UserError where a size cannot be shared equally by the devices."""
    for field, size in sizes.items():
        if size % num_devices:
            raise UserError(
                f"config.{field}: found {size}, expected a multiple of {num_devices}, "
                "the number of devices that share it; change it, or show fewer "
                "devices (CUDA_VISIBLE_DEVICES)"
            )


def compile_learning(
    num_devices: int, init_replay: Callable, add: Callable, update: Callable
) -> Learning:
    """Returns the functions of `Learning` on the first `num_devices` devices.

    Args:
      num_devices: at least 1, at most the local devices.
      init_replay: `(capacity, obs_dim, flat_action_dim, offline) -> replay` of one
        device; each gets all of the offline transitions.
      add: `(replay, transitions) -> replay` of one device.
      update: the training call of one device; for several it must average what it
        learns from its batches with `mean_over_devices`.
    """
    if num_devices == 1:
        return Learning(
            init_replay=init_replay,
            store=jax.jit(add, donate_argnums=0),
            update=jax.jit(update, donate_argnums=(0, 1)),
            local=lambda learner: learner,
        )
    devices = jax.local_devices()[:num_devices]

    def update_shard(learner, replay, policy_params, fresh, key, env_steps):
        key = jax.random.fold_in(key, jax.lax.axis_index(AXIS))
        return update(learner, replay, policy_params, fresh, key, env_steps)

    store = jax.pmap(add, AXIS, devices=devices, donate_argnums=0)
    update_all = jax.pmap(
        update_shard,
        AXIS,
        in_axes=(None, 0, None, 0, None, None),
        out_axes=(None, 0, None),
        devices=devices,
        donate_argnums=(0, 1),
    )

    def init_all(capacity, obs_dim, flat_action_dim, offline=None):
        shard = -(-capacity // num_devices)

        def init_shard(_, offline):
            return init_replay(shard, obs_dim, flat_action_dim, offline)

        init = jax.pmap(init_shard, AXIS, in_axes=(0, None), devices=devices)
        return init(np.arange(num_devices), offline)

    def call(learner, replay, policy_params, fresh, key, env_steps):
        fresh = split(fresh, num_devices)
        return update_all(learner, replay, policy_params, fresh, key, env_steps)

    return Learning(
        init_replay=init_all,
        store=lambda replay, fresh: store(replay, split(fresh, num_devices)),
        update=call,
        local=lambda learner: jax.tree.map(_first_copy, learner),
    )


def split(tree: PyTree, num_devices: int) -> PyTree:
    """Returns `tree` with its leading axis `[n * m]` as `[n, m]`."""
    return jax.tree.map(
        lambda leaf: leaf.reshape(num_devices, -1, *leaf.shape[1:]), tree
    )


def _first_copy(leaf: jax.Array) -> jax.Array:
    return leaf.addressable_data(0)
