"""A ring buffer of transitions in host memory: `ring` in NumPy, changed in place."""

import jax
import numpy as np

from dynvgd_jax.core.types import Transition
from dynvgd_jax.replay.ring import Window, drawn_offline, look_ahead, rows


class HostRing:
    """One seed's transitions in one process; draws as `ring.sample` does."""

    def __init__(
        self, capacity: int, example: Transition, offline: Transition | None = None
    ):
        """Reserves the memory now.

        Args:
          capacity: transitions, at least 1.
          example: one transition, see `ring.example_transition`.
          offline: transitions that batches also draw from, leading axis of at least 1.
        """
        # full, not zeros: those get their memory when they are written, hours later
        self.data = jax.tree.map(
            lambda leaf: np.full((capacity, *leaf.shape), 0, leaf.dtype), example
        )
        self.offline = offline
        self.capacity, self.total = capacity, 0

    def add(self, batch: Transition) -> None:
        """Writes `batch` (leading axis n <= capacity) over the oldest slots."""
        count = len(batch.reward)
        slots = (self.total + np.arange(count)) % self.capacity
        jax.tree.map(lambda store, new: store.__setitem__(slots, new), self.data, batch)
        self.total += count

    def refill(self, data: Transition, total: int) -> None:
        """Puts back the slots of a buffer that held `total` transitions so far."""
        jax.tree.map(
            lambda store, value: store.__setitem__(slice(None), value), self.data, data
        )
        self.total = total

    def sample(
        self,
        rng: np.random.Generator,
        shape: tuple[int, ...],
        window: Window,
        num_offline: int = 0,
    ) -> tuple[Transition, Transition | None]:
        """Returns own and offline transitions; see `ring.sample`.

        Of the first axis of `shape`, `num_offline` are the offline ones.
        """
        count, *rest = shape
        size = max(min(self.total, self.capacity), 1)
        slots = rng.integers(0, size, (count - num_offline, *rest))
        cursor = self.total % self.capacity
        own = look_ahead(self.data, cursor, slots, window, np)
        if not num_offline:
            return own, None
        slots = rng.integers(0, len(self.offline.reward), (num_offline, *rest))
        return own, drawn_offline(rows(self.offline, slots), window)
