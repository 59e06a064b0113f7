"""The replay buffer's content on the disk: what is new is appended at a checkpoint."""

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dynvgd_jax.errors import UserError
from dynvgd_jax.runs.durable import write_durably
from dynvgd_jax.types import Transition


class ReplayLog:
    """Segments `<first>-<stop>.npy [n, columns]` of a run's transitions, in order.

    A late checkpoint writes no more than an early one. Segments stay until the run's
    folder is deleted, even where the buffer has overwritten their transitions.
    """

    def __init__(self, folder: str | Path, segments: list[dict] | None = None):
        """Continues a log.

        Args:
          folder: where the segments lie; made when the first one is written.
          segments: what `write` returned last; none for a new run.
        """
        self.folder = Path(folder)
        self.segments = list(segments or [])  # name, rows, sha256
        self._fresh: list[Transition] = []

    def add(self, fresh: Transition) -> None:
        """Takes transitions (NumPy, leading axis n); they are written later."""
        self._fresh.append(fresh)

    def write(self) -> list[dict]:
        """Writes what is new; returns name, rows and SHA-256 of every segment.

        Raises:
          OSError: the segment cannot be written; what is new is kept for the next try.
        """
        if self._fresh:
            rows = np.concatenate([_to_rows(fresh) for fresh in self._fresh])
            first = sum(segment["rows"] for segment in self.segments)
            segment = self._write_segment(first, rows)
            self.segments.append(segment)
            self._fresh = []
        return list(self.segments)

    def read(self, obs_dim: int, flat_action_dim: int) -> Iterator[Transition]:
        """Yields the transitions of each segment.

        Raises:
          UserError: a segment is missing or not as it was written.
        """
        columns = 2 * obs_dim + flat_action_dim + 2
        for segment in self.segments:
            content = self._sound_content(segment)
            rows = np.load(io.BytesIO(content), allow_pickle=False)
            if rows.shape != (segment["rows"], columns):
                raise UserError(
                    f"{self.folder / segment['name']}: found transitions "
                    f"{rows.shape}, expected {(segment['rows'], columns)}"
                )
            yield _from_rows(rows, obs_dim, flat_action_dim)

    def verify(self) -> None:
        """Raises UserError unless every segment is as it was written."""
        for segment in self.segments:
            self._sound_content(segment)

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
        return {"name": name, "rows": len(rows), "sha256": digest}


def _to_rows(batch: Transition) -> np.ndarray:
    columns = [np.asarray(part, np.float32) for part in batch]
    return np.concatenate(
        [part.reshape(len(part), -1) for part in columns], axis=1, dtype=np.float32
    )


def _from_rows(rows: np.ndarray, obs_dim: int, flat_action_dim: int) -> Transition:
    sizes = (obs_dim, flat_action_dim, 1, obs_dim, 1)
    parts = np.split(rows, np.cumsum(sizes)[:-1], axis=1)
    obs, action, reward, next_obs, done = map(np.ascontiguousarray, parts)
    return Transition(obs, action, reward[:, 0], next_obs, done[:, 0])
