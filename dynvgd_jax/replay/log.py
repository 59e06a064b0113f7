"""The replay buffer's content on the disk: what is new is appended at a checkpoint."""

import hashlib
import io
from collections.abc import Collection
from pathlib import Path

import numpy as np

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.types import Transition
from dynvgd_jax.runs.durable import write_durably


class ReplayLog:
    """Segments `<first>-<stop>.npy [n, columns]` of a run's transitions, in order.

    Transitions are numbered as they come; a ring buffer of `capacity` slots holds
    number i in slot i modulo capacity. A late checkpoint writes no more than an early
    one, and names only segments of which the buffer still holds something.
    """

    def __init__(
        self, folder: str | Path, capacity: int, segments: list[dict] | None = None
    ):
        """Continues a log.

        Args:
          folder: where the segments lie; made when the first one is written.
          capacity: transitions that may still be needed, at least what buffers hold.
          segments: what `write` returned last; none for a new run.
        """
        self.folder = Path(folder)
        self.segments = list(segments or [])  # first, rows, name, sha256
        self._capacity = capacity
        self._fresh: list[Transition] = []

    @property
    def total(self) -> int:
        """Transitions written so far, overwritten ones included."""
        last = self.segments[-1:]
        return sum(segment["first"] + segment["rows"] for segment in last)

    def add(self, fresh: Transition) -> None:
        """Takes transitions (NumPy, leading axis n); they are written later."""
        self._fresh.append(fresh)

    def write(self) -> list[dict]:
        """Writes what is new; returns the segments that the buffer needs.

        Raises:
          OSError: the segment cannot be written; what is new is kept for the next try.
        """
        if self._fresh:
            rows = np.concatenate([_to_rows(fresh) for fresh in self._fresh])
            self.segments.append(self._write_segment(self.total, rows))
            self._fresh = []
        oldest = self.total - self._capacity
        self.segments = [s for s in self.segments if s["first"] + s["rows"] > oldest]
        return list(self.segments)

    def read(
        self,
        shape: tuple[int, ...],
        obs_dim: int,
        flat_action_dim: int,
        step_rows: int = 1,
    ) -> Transition:
        """Returns what ring buffers hold by now, slot by slot.

        Args:
          shape: `(capacity,)`, or `(devices, capacity)` where each device has a ring
            buffer of its own and gets its equal share of every vector step.
          obs_dim: Do.
          flat_action_dim: Ta * Da.
          step_rows: transitions of a vector step.

        Returns: arrays with leading axes `shape`; slots never written are zero.

        Raises:
          UserError: a segment is missing or not as it was written.
        """
        columns = 2 * obs_dim + flat_action_dim + 2
        rows = np.concatenate([self._rows(s, columns) for s in self.segments])
        num_shards = shape[0] if len(shape) == 2 else 1
        share = rows.reshape(-1, num_shards, step_rows // num_shards or 1, columns)
        rings = [
            _ring(
                share[:, shard].reshape(-1, columns),
                self.total // num_shards,
                shape[-1],
            )
            for shard in range(num_shards)
        ]
        ring = np.stack(rings).reshape(*shape, columns)
        return _from_rows(ring, obs_dim, flat_action_dim)

    def verify(self) -> None:
        """Raises UserError unless every segment is as it was written."""
        for segment in self.segments:
            self._sound_content(segment)

    def keep(self, names: Collection[str]) -> None:
        """Deletes the files of all segments but those called `names`."""
        for path in self.folder.glob("*.npy"):
            if path.name not in names:
                path.unlink()

    def _rows(self, segment: dict, columns: int) -> np.ndarray:
        content = self._sound_content(segment)
        rows = np.load(io.BytesIO(content), allow_pickle=False)
        if rows.shape != (segment["rows"], columns) or rows.dtype != np.float32:
            raise UserError(
                f"{self.folder / segment['name']}: found transitions "
                f"{rows.dtype}{rows.shape}, expected "
                f"float32{(segment['rows'], columns)}"
            )
        return rows

    def _sound_content(self, segment: dict) -> bytes:
        path = self.folder / Path(segment["name"]).name
        if not path.is_file():
            raise UserError(f"{path} is missing")
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != segment["sha256"]:
            raise UserError(f"{path} is damaged")
        return content

    def _write_segment(self, first: int, rows: np.ndarray) -> dict:
        self.folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.save(buffer, rows, allow_pickle=False)
        name = f"{first}-{first + len(rows)}.npy"
        write_durably(self.folder / name, buffer.getvalue())
        digest = hashlib.sha256(buffer.getvalue()).hexdigest()
        return {"first": first, "rows": len(rows), "name": name, "sha256": digest}


def _ring(rows: np.ndarray, total: int, capacity: int) -> np.ndarray:
    """Returns a ring buffer's slots after `total` transitions, `rows` the last ones."""
    ring = np.zeros((capacity, rows.shape[1]), np.float32)
    rows = rows[-capacity:]
    ring[(total - len(rows) + np.arange(len(rows))) % capacity] = rows
    return ring


def _to_rows(batch: Transition) -> np.ndarray:
    columns = [np.asarray(part, np.float32) for part in batch]
    return np.concatenate(
        [part.reshape(len(part), -1) for part in columns], axis=1, dtype=np.float32
    )


def _from_rows(rows: np.ndarray, obs_dim: int, flat_action_dim: int) -> Transition:
    sizes = (obs_dim, flat_action_dim, 1, obs_dim, 1)
    obs, action, reward, next_obs, done = np.split(rows, np.cumsum(sizes)[:-1], axis=-1)
    return Transition(obs, action, reward[..., 0], next_obs, done[..., 0])
