"""What a run writes as it goes: TensorBoard and eval.csv."""

import csv
import io
import os
import shlex
import socket
import struct
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.types import EpisodeResult
from dynvgd_jax.runs import tensorboard
from dynvgd_jax.runs.durable import AppendFile, sync
from dynvgd_jax.runs.lock import FolderLock
from dynvgd_jax.runs.settings import (
    CONFIG_FILE,
    versions,
    write_config,
    write_versions,
)
from dynvgd_jax.runs.tensorboardx import Event, Summary, masked_crc32c

EPISODES_FILE = "eval.csv"
EPISODE_COLUMNS = (
    "control_steps",
    "policy",
    "seed",
    "success_any",
    "success_chunk",
    "return",
    "length",
)


class MetricsLog:
    """The files of one run; use it in a `with` block or call `close`."""

    def __init__(
        self,
        workdir: str | Path,
        config: ConfigDict,
        sizes: dict | None = None,
        lock: FolderLock | None = None,
    ):
        """Creates the run's folder and writes its configuration and versions.

        Args:
          workdir: the run's folder.
          config: what the run does.
          sizes: of a run that goes on: what `sizes()` returned at its checkpoint, or
            nothing where it had none yet. What was written after that is cut off.
          lock: of a run that goes on: of its folder; `close` releases it.

        Raises:
          UserError: the folder holds a run already, another process is using it, or
            it cannot be written.
        """
        self.workdir = Path(workdir)
        self._lock = lock
        try:
            if sizes is None:
                self._refuse_a_run()  # before the lock, which would leave its mark
                self.workdir.mkdir(parents=True, exist_ok=True)
                self._lock = FolderLock(self.workdir)
                self._refuse_a_run()  # one may have begun and ended in between
            else:
                self._cut_back(sizes)
            if not sizes:
                write_versions(self.workdir)
            write_config(self.workdir, config)
            self._open_files(config)
        except (OSError, UserError) as error:
            if self._lock is not None:
                self._lock.release()
            if isinstance(error, UserError):
                raise
            raise UserError(f"cannot write to {self.workdir}: {error.strerror}") from (
                error
            )

    def _open_files(self, config: ConfigDict) -> None:
        # TensorBoard reads files in the order of their names, which end in the clock.
        number = len(self._event_files())
        prefix = f"events.resumed{number:05d}" if number else "events"
        name = f"{prefix}.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        self._events = AppendFile(self.workdir / name)
        self._episodes = AppendFile(self.workdir / EPISODES_FILE)
        header = Event(wall_time=time.time(), file_version="brain.Event:2")
        self._events.append(_record(header))
        if not number:
            for summary in tensorboard.opening(config, _command(), versions()):
                self._write(0, summary)
        if self._episodes.flush() == 0:
            self._episodes.append(_csv([EPISODE_COLUMNS]))

    def sizes(self) -> dict[str, int]:
        """Returns the bytes of each file that grows with the run, by name.

        Raises:
          OSError: some of it could not be written to the disk yet.
        """
        self._events.flush()
        self._episodes.flush()
        sync(self.workdir)
        files = [self._episodes.path, *self._event_files()]
        return {path.name: path.stat().st_size for path in files}

    def _event_files(self) -> list[Path]:
        return event_files(self.workdir)

    def _cut_back(self, sizes: dict[str, int]) -> None:
        for path in (self.workdir / EPISODES_FILE, *self._event_files()):
            if path.name not in sizes:
                path.unlink(missing_ok=True)
        for name, size in sizes.items():
            os.truncate(self.workdir / Path(name).name, size)

    def _refuse_a_run(self) -> None:
        if (self.workdir / CONFIG_FILE).exists():
            raise UserError(
                f"{self.workdir} holds a run already; give another --workdir"
            )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one TensorBoard point per name, at `step` control steps."""
        points = [
            Summary.Value(tag=name, simple_value=float(value))
            for name, value in values.items()
        ]
        self._write(step, Summary(value=points))

    def histogram(self, step: int, name: str, values: Sequence[float]) -> None:
        """Writes a distribution to TensorBoard, at `step` control steps."""
        self._write(step, tensorboard.histogram(name, values))

    def _write(self, step: int, summary: Summary) -> None:
        event = Event(wall_time=time.time(), step=step, summary=summary)
        self._events.append(_record(event))

    def episodes(
        self, control_steps: int, policy: str, results: Iterable[EpisodeResult]
    ) -> None:
        """Appends one row an episode to eval.csv.

        The rows hold no clock, so equal runs write equal files, byte for byte.

        Args:
          control_steps: of training so far, over all environments.
          policy: method and start noise, such as `base/randn` or `dynvgd/tanh_randn`.
          results: finished episodes.
        """
        self._episodes.append(episode_rows([(control_steps, policy, results)]))

    def close(self) -> None:
        """Closes the files and frees the folder."""
        self._events.close()
        self._episodes.close()
        self._lock.release()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def episode_rows(
    evaluations: Iterable[tuple[int, str, Iterable[EpisodeResult]]],
    *,
    header: bool = False,
) -> bytes:
    """Returns rows of eval.csv, one an episode; arguments as `MetricsLog.episodes`'s.

    Args:
      evaluations: control steps, policy and finished episodes of each.
      header: whether the names of the columns stand first.
    """
    rows = [EPISODE_COLUMNS] if header else []
    for control_steps, policy, results in evaluations:
        for r in results:
            success = (int(r.success_any), int(r.success_chunk))
            total = repr(float(r.episode_return))
            rows.append((control_steps, policy, r.seed, *success, total, r.length))
    return _csv(rows)


def event_files(workdir: Path) -> list[Path]:
    """The run's TensorBoard files, oldest first."""
    return sorted(workdir.glob("events.*tfevents.*"))


def check_sizes(workdir: Path, sizes: Mapping[str, int]) -> None:
    """Raises UserError where a file lacks some of what `MetricsLog.sizes` returned."""
    for name, size in sizes.items():
        path = workdir / Path(name).name
        if path.is_symlink() or not path.is_file() or path.stat().st_size < size:
            raise UserError(f"{path} is missing or shorter than at the checkpoint")


def _command() -> str:
    """The command that this process was started by."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _record(event: Event) -> bytes:
    """TensorFlow's record format: length and content, each with its checksum."""
    content = event.SerializeToString()
    length = struct.pack("<Q", len(content))
    sums = [struct.pack("<I", masked_crc32c(part)) for part in (length, content)]
    return length + sums[0] + content + sums[1]


def _csv(rows: Iterable[Iterable]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
