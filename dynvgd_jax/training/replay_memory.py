"""Where a run's replay buffers live: on the devices, or in the hosts' memory."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import anything, count, number, one_of
from dynvgd_jax.core.types import Transition
from dynvgd_jax.replay import ring
from dynvgd_jax.replay.host import HostRing
from dynvgd_jax.replay.ring import ReplayState, Window
from dynvgd_jax.training import processes
from dynvgd_jax.training.compile import HELD, SAME, SHARED, compile_for
from dynvgd_jax.training.placement import Placement

# The offline transitions are the same for all seeds.
RING = ReplayState(data=SHARED, cursor=SHARED, size=SHARED, offline=HELD)


class Draw(NamedTuple):
    """What one training call draws, over all devices and processes."""

    utd: int  # batches, those that the method needs beside its gradient steps too
    batch_size: int  # transitions of each
    num_offline: int  # of them, offline ones
    window: Window

    def share(self, devices: int) -> "Draw":
        """Returns one device's part; `window.stride` is that of its buffer."""
        stride = self.window.stride // devices
        return self._replace(
            batch_size=self.batch_size // devices,
            num_offline=self.num_offline // devices,
            window=self.window._replace(stride=stride),
        )


class DeviceReplay:
    """One ring buffer a seed and device; batches are drawn inside the training call."""

    def __init__(
        self,
        placement: Placement,
        capacity: int,
        example: Transition,
        offline: Transition | None = None,
    ):
        """Reserves the memory now.

        Args:
          placement: of seeds and devices.
          capacity: transitions of one seed, of all devices and processes.
          example: one transition, see `ring.example_transition`.
          offline: transitions that batches also draw from.
        """
        self._placement = placement
        # shards of one seed's buffer, in all processes, and in this one
        self.num_shards = placement.group_devices
        self.own_shards = processes.own_share(self.num_shards)
        self.shard_capacity = -(-capacity // self.num_shards)
        init = compile_for(
            placement,
            lambda _, offline: ring.init_replay(self.shard_capacity, example, offline),
            (SHARED, SAME),
            RING,
        )
        self.state = init(np.zeros(placement.lead), offline)
        self._add = compile_for(placement, ring.add, (RING, SHARED), RING, donate=(0,))

    def store(self, fresh: Sequence[Transition]) -> None:
        """Adds this process's new transitions `[n, ...]`, one entry a seed."""
        self.state = self._add(self.state, self._placement.share(fresh))

    def refill(self, rings: Sequence[Transition], total: int) -> None:
        """Puts back buffers that held `total` transitions a shard.

        Args:
          rings: `[own shards, shard_capacity, ...]`, one entry a seed.
          total: transitions that went into each shard so far.
        """
        self.state = ring.refill(self.state, self._placement.share(rings), total)


class HostReplay:
    """One NumPy ring buffer a seed and process; batches are drawn here and sent.

    With `config.overlap` that happens while the environments step.
    """

    def __init__(
        self,
        placement: Placement,
        capacity: int,
        example: Transition,
        offline: Transition | None = None,
    ):
        """Reserves the memory now; arguments as `DeviceReplay`'s."""
        self._placement = placement
        self.num_shards = processes.count()
        index = processes.index()
        self.own_shards = slice(index, index + 1)
        self.shard_capacity = -(-capacity // self.num_shards)
        self._rings = [
            HostRing(self.shard_capacity, example, offline)
            for _ in range(placement.num_seeds)
        ]

    @property
    def total(self) -> int:
        """Transitions that each seed stored here so far."""
        return self._rings[0].total

    def store(self, fresh: Sequence[Transition]) -> None:
        """As `DeviceReplay.store`."""
        for own, new in zip(self._rings, fresh, strict=True):
            own.add(new)

    def draw(self, keys: Sequence[jax.Array], what: Draw) -> Transition:
        """Returns batches, `[B, utd, ...]` a seed, placed as the training call's."""
        drawn = [
            self._draw_one(own, key, what.share(self.num_shards))
            for own, key in zip(self._rings, keys, strict=True)
        ]
        return self._placement.share(drawn)

    def _draw_one(self, own: HostRing, key: jax.Array, what: Draw) -> Transition:
        entropy = np.asarray(jax.random.key_data(key)).tolist()
        rng = np.random.default_rng([*entropy, processes.index()])
        shape = (what.batch_size, what.utd)
        online, offline = own.sample(rng, shape, what.window, what.num_offline)
        if offline is None:
            return online
        # Spread evenly: every device gets its share of both.
        parts = self._placement.num_local // self._placement.num_groups
        return jax.tree.map(lambda *two: _interleave(*two, parts), online, offline)

    def refill(self, rings: Sequence[Transition], total: int) -> None:
        """As `DeviceReplay.refill`."""
        for own, values in zip(self._rings, rings, strict=True):
            own.refill(jax.tree.map(lambda leaf: leaf[0], values), total)


def _interleave(own: np.ndarray, other: np.ndarray, parts: int) -> np.ndarray:
    """Returns `[n + m, ...]` in which each of `parts` pieces has its share of both."""
    pieces = zip(np.split(own, parts), np.split(other, parts), strict=True)
    return np.concatenate([array for piece in pieces for array in piece])


# Config value -> where the buffers live.
MEMORIES = {"device": DeviceReplay, "host": HostReplay}

FIELDS = {
    "utd": number(1, 100_000),
    "batch_size": number(1, 1_000_000),
    "gamma": number(0.0, 1.0),
    "target_n_step": number(1, 1000),
    "replay.memory": one_of(MEMORIES),
    "replay.capacity": count(1),
    "replay.offline_dataset": anything,
    "replay.offline_filter_key": anything,
    "replay.offline_share": number(0.0, 1.0),
}


def make_draw(config: ConfigDict, follow: bool = False, more: int = 0) -> Draw:
    """Returns what a training call of `config` draws.

    Args:
      config: of the run, checked.
      follow: whether batches shall tell what was executed at the next observation.
      more: batches beside those of the `utd` gradient steps.

    Raises:
      UserError: there are offline transitions, but batches would hold none of them.
    """
    num_offline = 0
    if config.replay.offline_dataset:
        num_offline = round(config.replay.offline_share * config.batch_size)
        if not num_offline:
            raise UserError(
                f"config.replay.offline_share: found {config.replay.offline_share}, "
                "expected at least 1 / (2 batch_size) = "
                f"{0.5 / config.batch_size:g}, so that replay.offline_dataset is used"
            )
    window = Window(config.gamma, config.target_n_step, config.num_envs, follow)
    return Draw(config.utd + more, config.batch_size, num_offline, window)
