"""Which devices hold which seeds, and how their arrays are laid out.

Each seed has a learner and a replay buffer of its own. The devices form groups: a group
holds some of the seeds, vmapped, and its devices share every batch of these. Each of
them holds a shard of the replay buffers and draws its share of each batch from it;
gradients and statistics are averaged over the group, so its devices hold the same bits.
With one seed and one device nothing of this is in the program (`compile`).

pmap is JAX's `jit(shard_map)` behind the scenes: in a run of several processes it spans
the devices of all of them, and takes and gives this process's part.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.types import PyTree

AXIS = "devices"


class Placement(NamedTuple):
    """Which devices hold which seeds.

    Arrays of a group, "spread", are `[devices, seeds of the group, ...]`, the same on
    all its devices; shared ones split their leading axis over the devices. An axis is
    left out where it would be 1: that of seeds with one seed a group, that of devices
    with one device, and for spread arrays also with one group, which pmap replicates.
    """

    num_seeds: int = 1
    num_devices: int = 1  # of all processes
    num_local: int = 1  # of this process
    num_groups: int = 1

    @property
    def group_seeds(self) -> int:
        """Seeds of one group."""
        return self.num_seeds // self.num_groups

    @property
    def group_devices(self) -> int:
        """Devices of one group, which share its batches."""
        return self.num_devices // self.num_groups

    @property
    def _group_local(self) -> int:
        return self.num_local // self.num_groups

    def spread(self, per_seed: Sequence[PyTree]) -> PyTree:
        """Returns trees, one a seed, as one that every device of their groups has."""

        def place(*leaves):
            if self.num_seeds == 1:
                return leaves[0]
            stacked = _stack(leaves)
            if self.num_groups == 1:
                return stacked
            rest = stacked.shape[1:]
            grouped = stacked.reshape(self.num_groups, 1, self.group_seeds, *rest)
            shape = (self.num_groups, self._group_local, self.group_seeds, *rest)
            xp = np if isinstance(stacked, np.ndarray) else jnp
            return self._without_ones(xp.broadcast_to(grouped, shape), rest)

        return jax.tree.map(place, *per_seed)

    def share(self, per_seed: Sequence[PyTree]) -> PyTree:
        """Returns NumPy trees, one a seed, with leading axes shared by the devices."""

        def place(*leaves):
            leaves = np.stack(leaves)
            rest = (leaves.shape[1] // self._group_local, *leaves.shape[2:])
            shape = (self.num_groups, self.group_seeds, self._group_local, *rest)
            return self._without_ones(leaves.reshape(shape).swapaxes(1, 2), rest)

        return jax.tree.map(place, *per_seed)

    @property
    def lead(self) -> tuple[int, ...]:
        """The leading axes of shared arrays."""
        devices = () if self.num_devices == 1 else (self.num_local,)
        return devices + (() if self.group_seeds == 1 else (self.group_seeds,))

    def _without_ones(self, leaf, rest: tuple[int, ...]):
        """`[groups, devices of a group, seeds of a group, ...]` as the class says."""
        return leaf.reshape(*self.lead, *rest)

    def collect(self, fetched: np.ndarray) -> np.ndarray:
        """Returns `[seeds, ...]` of a fetched output, equal on a group's devices."""
        if self.num_seeds == 1:
            return fetched[None]
        if self.num_groups == 1:
            return fetched
        first = fetched[:: self._group_local]
        rest = first.shape[1 if self.group_seeds == 1 else 2 :]
        return first.reshape(self.num_seeds, *rest)

    def take(self, placed: PyTree, seed_index: int) -> PyTree:
        """Returns a seed's part of a spread tree of device arrays, on device 0."""
        group, place = divmod(seed_index, self.group_seeds)

        def one(leaf):
            if self.num_devices > 1:
                leaf = leaf.addressable_data(
                    group * self._group_local if self.num_groups > 1 else 0
                )
                leaf = leaf[0] if self.num_groups > 1 else leaf
            return leaf if self.group_seeds == 1 else leaf[place]

        own = jax.tree.map(one, placed)
        if self.num_groups > 1:
            own = jax.device_put(own, jax.local_devices()[0])
        return own

    def average(self, tree: PyTree) -> PyTree:
        """Returns the mean of `tree` over the group, the same bits on each device."""
        if self.group_devices == 1:
            return tree
        return jax.lax.pmean(tree, AXIS, axis_index_groups=self._groups())

    def own_key(self, key: jax.Array) -> jax.Array:
        """Returns another key on each device of a group."""
        if self.group_devices == 1:
            return key
        return jax.random.fold_in(key, jax.lax.axis_index(AXIS) % self.group_devices)

    def _groups(self) -> list[list[int]] | None:
        if self.num_groups == 1:
            return None
        return np.arange(self.num_devices).reshape(self.num_groups, -1).tolist()


ONE_DEVICE = Placement()


def _stack(leaves: Sequence[Any]) -> Any:
    """Returns `[n, ...]`, of NumPy arrays on the host.

    `jnp.stack` sends every leaf and a program for each to the device, every vector
    step: a millisecond for eight keys.
    """
    if all(isinstance(leaf, np.ndarray) for leaf in leaves):
        return np.stack(leaves)
    if jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
        return _stack_keys(*leaves)
    return jnp.stack(leaves)


_stack_keys = jax.jit(lambda *keys: jnp.stack(keys))


def place(num_seeds: int = 1, num_devices: int | None = None) -> Placement:
    """Returns where a run's seeds go: as many groups as divide seeds and devices.

    Args:
      num_seeds: at least 1.
      num_devices: of this process, the first ones; None takes all of all processes.
    """
    several = jax.process_count() > 1
    count = num_devices or jax.device_count()
    # A group within several processes would need collectives among some of them only.
    groups = 1 if several else math.gcd(num_seeds, count)
    local = jax.local_device_count() if several else count
    return Placement(num_seeds, count, local, groups)


def require_shares(placement: Placement, **sizes: int) -> None:
    """Raises UserError where a size cannot be shared equally by a group's devices."""
    devices = placement.group_devices
    for field, size in sizes.items():
        if size % devices:
            raise UserError(
                f"config.{field}: found {size}, expected a multiple of {devices}, "
                "the number of devices that share it; change it, or show fewer "
                "devices (CUDA_VISIBLE_DEVICES)"
            )
