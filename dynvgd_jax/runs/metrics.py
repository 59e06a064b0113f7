"""What a run writes as it goes: TensorBoard, eval.csv, configuration and versions."""

import csv
import io
import json
import os
import platform
import socket
import struct
import subprocess
import time
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from ml_collections import ConfigDict
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from dynvgd_jax.errors import UserError
from dynvgd_jax.runs.durable import AppendFile, sync, write_durably
from dynvgd_jax.runs.lock import FolderLock
from dynvgd_jax.types import EpisodeResult
from dynvgd_jax.untrusted import load_json

CONFIG_FILE = "config.json"
VERSIONS_FILE = "versions.json"
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
LOGGED_PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "mujoco",
    "mujoco-mjx",
    "robosuite",
    "numba",
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
                _write_json(self.workdir / VERSIONS_FILE, versions())
            write_config(self.workdir, config)
            self._open_files()
        except (OSError, UserError) as error:
            if self._lock is not None:
                self._lock.release()
            if isinstance(error, UserError):
                raise
            raise UserError(f"cannot write to {self.workdir}: {error.strerror}") from (
                error
            )

    def _open_files(self) -> None:
        # TensorBoard reads files in the order of their names, which end in the clock.
        number = len(self._event_files())
        prefix = f"events.resumed{number:05d}" if number else "events"
        name = f"{prefix}.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        self._events = AppendFile(self.workdir / name)
        self._episodes = AppendFile(self.workdir / EPISODES_FILE)
        header = Event(wall_time=time.time(), file_version="brain.Event:2")
        self._events.append(_record(header))
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
        return sorted(self.workdir.glob("events.*tfevents.*"))

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
        summary = Summary(value=points)
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
        rows = []
        for r in results:
            success = (int(r.success_any), int(r.success_chunk))
            total = repr(float(r.episode_return))
            rows.append([control_steps, policy, r.seed, *success, total, r.length])
        self._episodes.append(_csv(rows))

    def close(self) -> None:
        """Closes the files and frees the folder."""
        self._events.close()
        self._episodes.close()
        self._lock.release()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def check_sizes(workdir: Path, sizes: Mapping[str, int]) -> None:
    """Raises UserError where a file lacks some of what `MetricsLog.sizes` returned."""
    for name, size in sizes.items():
        path = workdir / Path(name).name
        if not path.is_file() or path.stat().st_size < size:
            raise UserError(f"{path} is missing or shorter than at the checkpoint")


def write_config(workdir: str | Path, config: ConfigDict) -> None:
    """Writes what `read_config` reads."""
    _write_json(Path(workdir) / CONFIG_FILE, config.to_dict())


def read_config(workdir: str | Path) -> ConfigDict:
    """Returns the locked configuration of the run in `workdir`.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    path = Path(workdir) / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{workdir} is no run folder: it holds no {CONFIG_FILE}")
    try:
        config = ConfigDict(_lists_to_tuples(load_json(path)))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    return config.lock()


def versions() -> dict[str, str]:
    """Returns the versions that decide a run's numbers; imports none of the packages.

    A package that is not installed is "none"; so is `git_commit` outside a checkout.
    """
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in LOGGED_PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "none"
    found["git_commit"] = _git_commit()
    return found


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


def _git_commit() -> str:
    """The commit of this code, with `+changes` where files differ from it."""
    folder = Path(__file__).resolve().parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(folder, "status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return "none"


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout.strip()


def _write_json(path: Path, content: dict) -> None:
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    write_durably(path, text.encode())


def _lists_to_tuples(value):
    if isinstance(value, dict):
        return {key: _lists_to_tuples(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return tuple(_lists_to_tuples(entry) for entry in value)
    return value
