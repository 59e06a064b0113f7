"""Compiles functions of one seed on one device for all seeds and devices of a run.

The only room with `jit`, `pmap` and donation; it knows nothing of what is computed. A
function is written for one seed and one device. Of each of its arguments and results,
or of parts of them, a `Kind` says how seeds and devices share it; `Placement` has the
layouts.
"""

import enum
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynvgd_jax.core.types import PyTree
from dynvgd_jax.training.placement import AXIS, Placement


class Kind(enum.Enum):
    """How seeds and devices share a value."""

    SPREAD = "one a seed, equal on all devices of its group"
    SHARED = "one a seed, every device of its group has a part"
    HELD = "the same for all seeds, every device has its own"
    SAME = "the same for all seeds and devices"


SPREAD, SHARED, HELD, SAME = Kind
# An argument's kind, or a tree of kinds that begins as the argument does.
Kinds = Any


def compile_for(
    placement: Placement,
    function: Callable,
    inputs: Sequence[Kinds],
    outputs: Kinds,
    donate: tuple[int, ...] = (),
) -> Callable:
    """Returns `function` compiled for all seeds and devices, on first use.

    Args:
      placement: of seeds and devices.
      function: of one seed on one device.
      inputs: kinds of its arguments.
      outputs: kinds of its result; none is SAME.
      donate: numbers of the arguments whose memory the result may take.
    """
    over_seeds = _over_seeds(placement, function, inputs, outputs)
    if placement.num_devices == 1:
        return jax.jit(over_seeds, donate_argnums=donate)

    def axes(kinds):
        spread = 0 if placement.num_groups > 1 else None
        table = {SPREAD: spread, SHARED: 0, HELD: 0, SAME: None}
        return jax.tree.map(table.__getitem__, kinds)

    # pmap wants an argument of which every device has its own: with one group and
    # SPREAD or SAME arguments only there would be none
    several = jax.pmap(
        lambda _, *arguments: over_seeds(*arguments),
        AXIS,
        in_axes=(0, *map(axes, inputs)),
        out_axes=axes(outputs),
        devices=_devices(placement),
        donate_argnums=tuple(number + 1 for number in donate),
    )
    each = np.zeros(placement.num_local, np.int8)
    return lambda *arguments: several(each, *arguments)


def compile_for_first(
    placement: Placement, function: Callable, inputs: Sequence[Kinds], outputs: Kinds
) -> Callable:
    """As `compile_for`, for what is too small to be shared by a group's devices.

    With one group the first device computes for all seeds, with several each for its
    own. `inputs` and `outputs` are SPREAD or SAME.
    """
    if placement.num_groups > 1:
        return compile_for(placement, function, inputs, outputs)
    compiled = jax.jit(_over_seeds(placement, function, inputs, outputs))
    return lambda *arguments: compiled(*map(local, arguments))


def make_replicate(placement: Placement) -> Callable[[PyTree], PyTree]:
    """Returns `tree -> tree` that puts the same on all devices."""
    if placement.num_devices == 1:
        return jax.device_put
    copy = jax.pmap(
        lambda _, tree: tree,
        AXIS,
        in_axes=(0, None),
        out_axes=None,
        devices=_devices(placement),
    )
    return lambda tree: copy(np.zeros(placement.num_local), tree)


def make_put(placement: Placement) -> Callable[[Sequence[PyTree]], PyTree]:
    """Returns what makes SPREAD arguments on the devices of trees, one a seed."""
    put = make_replicate(placement)
    if placement.num_groups > 1:
        put = compile_for(placement, lambda tree: tree, (SPREAD,), SPREAD)
    return lambda per_seed: put(placement.spread(per_seed))


def local(tree: PyTree) -> PyTree:
    """Returns the first device's copy of what all devices have, without copying it.

    NumPy arrays, numbers and keys are returned as they are.
    """

    def first(leaf):
        placed = isinstance(leaf, jax.Array) and not jnp.issubdtype(
            leaf.dtype, jax.dtypes.prng_key
        )
        return leaf.addressable_data(0) if placed else leaf

    return jax.tree.map(first, tree)


def _over_seeds(placement: Placement, function: Callable, inputs, outputs) -> Callable:
    if placement.group_seeds == 1:
        return function
    table = {SPREAD: 0, SHARED: 0, HELD: None, SAME: None}
    axes = jax.tree.map(table.__getitem__, (tuple(inputs), outputs))
    return jax.vmap(function, *axes)


def _devices(placement: Placement) -> list[jax.Device] | None:
    """The first devices of this process; None, all, in a run of several processes."""
    if jax.process_count() > 1:
        return None
    return jax.local_devices()[: placement.num_devices]
