"""Where a run's replay buffers live: on the devices, or in the hosts' memory."""

from collections.abc import Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from dynvgd_jax.core.config_check import num_offline
from dynvgd_jax.core.types import Transition
from dynvgd_jax.replay import ring as replay_lib
from dynvgd_jax.replay.ring import ReplayState
from dynvgd_jax.training import processes
from dynvgd_jax.training.placement import Placement, compile_replay

# The offline transitions are the same for all seeds.
REPLAY_AXES = ReplayState(data=0, cursor=0, size=0, offline=None)


class DeviceReplay:
    """One ring buffer a seed and device; batches are drawn inside the training call."""

    def __init__(
        self,
        placement: Placement,
        capacity: int,
        obs_dim: int,
        flat_action_dim: int,
        offline: Transition | None,
    ):
        """Reserves the memory now.

        Args:
          placement: of seeds and devices.
          capacity: transitions of one seed, of all devices and processes.
          obs_dim: Do.
          flat_action_dim: Ta * Da.
          offline: transitions that batches also draw from.
        """
        self._placement = placement
        # shards of one seed's buffer, in all processes, and in this one
        self.num_shards = placement.group_devices
        self.own_shards = processes.own_share(self.num_shards)
        init, self._store = compile_replay(
            placement, REPLAY_AXES, replay_lib.init_replay, replay_lib.add
        )
        self.state = init(capacity, obs_dim, flat_action_dim, offline)
        self.shard_capacity = self.state.data.reward.shape[-1]

    def store(self, fresh: Sequence[Transition]) -> None:
        """Adds this process's new transitions `[n, ...]`, one entry a seed."""
        self.state = self._store(self.state, fresh)

    def training_input(self, keys: Sequence[jax.Array]) -> ReplayState:
        """Returns what the training call takes."""
        return self.state

    def refill(self, rings: Sequence[Transition], total: int) -> None:
        """Puts back buffers that held `total` transitions a shard.

        Args:
          rings: `[own shards, shard_capacity, ...]`, one entry a seed.
          total: transitions that went into each shard so far.
        """
        self.state = replay_lib.refill(self.state, self._placement.share(rings), total)


class HostReplay:
    """One NumPy ring buffer a seed and process; batches are drawn here and sent.

    With `config.overlap` that happens while the environments step.
    """

    def __init__(
        self,
        placement: Placement,
        capacity: int,
        obs_dim: int,
        flat_action_dim: int,
        offline: Transition | None,
        *,
        batch_shape: tuple[int, int],
        num_offline: int,
    ):
        """Reserves the memory now.

        Args:
          placement: of seeds and devices.
          capacity: transitions of one seed, of all processes.
          obs_dim: Do.
          flat_action_dim: Ta * Da.
          offline: transitions that batches also draw from.
          batch_shape: gradient steps and transitions of a batch, of all processes.
          num_offline: transitions of a batch that `offline` gives.
        """
        self._placement, self._offline = placement, offline
        self.num_shards = processes.count()
        index = processes.index()
        self.own_shards = slice(index, index + 1)
        self.shard_capacity = -(-capacity // self.num_shards)
        utd, batch = batch_shape
        self._shape = (batch // self.num_shards, utd)
        self._num_offline = num_offline // self.num_shards
        widths = ((obs_dim,), (flat_action_dim,), (), (obs_dim,), ())
        # full, not zeros: those get their memory when they are written, hours later
        self._rings = [
            Transition(
                *(np.full((self.shard_capacity, *w), 0.0, np.float32) for w in widths)
            )
            for _ in range(placement.num_seeds)
        ]
        self._total = 0

    def store(self, fresh: Sequence[Transition]) -> None:
        """As `DeviceReplay.store`."""
        count = len(fresh[0].reward)
        slots = (self._total + np.arange(count)) % self.shard_capacity
        for ring, new in zip(self._rings, fresh, strict=True):
            for store, values in zip(ring, new, strict=True):
                store[slots] = values
        self._total += count

    def training_input(self, keys: Sequence[jax.Array]) -> Transition:
        """Returns batches, `[B, utd, ...]` a seed, as the training call takes them."""
        return self._placement.share(
            [self._draw(ring, key) for ring, key in zip(self._rings, keys, strict=True)]
        )

    def _draw(self, ring: Transition, key: jax.Array) -> Transition:
        entropy = np.asarray(jax.random.key_data(key)).tolist()
        rng = np.random.default_rng([*entropy, processes.index()])
        batch, utd = self._shape
        size = max(min(self._total, self.shard_capacity), 1)
        slots = rng.integers(0, size, (batch - self._num_offline, utd))
        drawn = Transition(*(store[slots] for store in ring))
        if not self._num_offline:
            return drawn
        count = len(self._offline.reward)
        slots = rng.integers(0, count, (self._num_offline, utd))
        # Spread evenly: every device gets its share of both.
        return jax.tree.map(
            lambda own, other: _interleave(own, np.asarray(other)[slots], self._parts),
            drawn,
            self._offline,
        )

    @property
    def _parts(self) -> int:
        """Devices of this process that share a batch."""
        return self._placement.num_local // self._placement.num_groups

    def refill(self, rings: Sequence[Transition], total: int) -> None:
        """As `DeviceReplay.refill`."""
        for ring, values in zip(self._rings, rings, strict=True):
            for store, value in zip(ring, values, strict=True):
                store[:] = value[0]
        self._total = total


def _interleave(own: np.ndarray, other: np.ndarray, parts: int) -> np.ndarray:
    """Returns `[n + m, ...]` in which each of `parts` pieces has its share of both."""
    pieces = zip(np.split(own, parts), np.split(other, parts), strict=True)
    return np.concatenate([array for piece in pieces for array in piece])


def reserve_replay(
    config: ConfigDict,
    placement: Placement,
    capacity: int,
    obs_dim: int,
    flat_action_dim: int,
    offline: Transition | None = None,
) -> DeviceReplay | HostReplay:
    """Returns the run's replay buffers, empty; see the classes for the arguments."""
    sizes = (placement, capacity, obs_dim, flat_action_dim, offline)
    if config.replay.memory == "device":
        return DeviceReplay(*sizes)
    return HostReplay(
        *sizes,
        batch_shape=(config.utd, config.batch_size),
        num_offline=num_offline(config),
    )
