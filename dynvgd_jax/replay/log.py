"""The replay buffer's content on the disk: what is new is appended at a checkpoint."""

import hashlib
import io
from collections.abc import Collection
from pathlib import Path

import jax
import numpy as np

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.types import Transition
from dynvgd_jax.runs.durable import entries, remove, write_durably

# The last one whose segments hold float32 columns, without `discount` and `ended`.
LAST_FLOAT_COMMIT = "9b190e2"


class OlderRunError(UserError):
    """A run whose transitions only an older version of this program can read."""


class ReplayLog:
    """Segments `<first>-<stop>.npy [n, bytes]` of a run's transitions, in order.

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
        self, shape: tuple[int, ...], example: Transition, step_rows: int = 1
    ) -> Transition:
        """Returns what ring buffers hold by now, slot by slot.

        Args:
          shape: `(capacity,)`, or `(devices, capacity)` where each device has a ring
            buffer of its own and gets its equal share of every vector step.
          example: one transition, see `ring.example_transition`.
          step_rows: transitions of a vector step.

        Returns: arrays with leading axes `shape`; slots never written are zero.

        Raises:
          UserError: a segment is missing or not as it was written.
        """
        columns = sum(leaf.nbytes for leaf in jax.tree.leaves(example))
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
        return _from_rows(ring, example)

    def verify(self) -> None:
        """Raises UserError unless every segment is as it was written."""
        for segment in self.segments:
            self._array(segment)

    def keep(self, names: Collection[str]) -> None:
        """Deletes the files of all segments but those called `names`.

        Raises:
          OSError: one cannot be deleted, or a link stands in the folder's place.
        """
        for path in entries(self.folder):
            if path.suffix == ".npy" and path.name not in names:
                remove(path)

    def _array(self, segment: dict) -> np.ndarray:
        path = self.folder / Path(segment["name"]).name
        try:
            rows = np.load(io.BytesIO(self._sound_content(segment)), allow_pickle=False)
        except ValueError as error:
            raise UserError(f"{path} is damaged: {error}") from error
        if rows.dtype == np.float32:
            raise OlderRunError(
                f"{path}: written by an older version of this program, commit "
                f"{LAST_FLOAT_COMMIT} or before; go on with that one, nothing was "
                "changed"
            )
        return rows

    def _rows(self, segment: dict, columns: int) -> np.ndarray:
        rows = self._array(segment)
        if rows.shape != (segment["rows"], columns) or rows.dtype != np.uint8:
            raise UserError(
                f"{self.folder / segment['name']}: found transitions "
                f"{rows.dtype}{rows.shape}, expected "
                f"uint8{(segment['rows'], columns)}"
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
    ring = np.zeros((capacity, rows.shape[1]), np.uint8)
    rows = rows[-capacity:]
    ring[(total - len(rows) + np.arange(len(rows))) % capacity] = rows
    return ring


def _to_rows(batch: Transition) -> np.ndarray:
    """The bytes of every transition, field by field: every dtype keeps its bits."""
    count = len(batch.reward)
    return np.concatenate(
        [
            np.ascontiguousarray(leaf).reshape(count, -1).view(np.uint8)
            for leaf in jax.tree.leaves(batch)
        ],
        axis=1,
    )


def _from_rows(rows: np.ndarray, example: Transition) -> Transition:
    leaves, structure = jax.tree.flatten(example)
    ends = np.cumsum([leaf.nbytes for leaf in leaves])[:-1]
    found = [
        np.ascontiguousarray(part)
        .view(leaf.dtype)
        .reshape(*rows.shape[:-1], *leaf.shape)
        for part, leaf in zip(np.split(rows, ends, axis=-1), leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, found)
