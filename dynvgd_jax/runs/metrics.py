"""What a run writes as it goes: TensorBoard, eval.csv, configuration and versions."""

import csv
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from ml_collections import ConfigDict
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

from dynvgd_jax.errors import UserError
from dynvgd_jax.runs.durable import write_durably
from dynvgd_jax.runs.lock import FolderLock
from dynvgd_jax.types import EpisodeResult

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
    "fault",
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
        self, workdir: str | Path, config: ConfigDict, sizes: dict | None = None
    ):
        """Creates the run's folder and writes its configuration and versions.

        Args:
          workdir: the run's folder.
          config: what the run does.
          sizes: of a run that goes on: what `sizes()` returned at its checkpoint. What
            was written after that is cut off.

        Raises:
          UserError: the folder holds a run already, another process is using it, or
            it cannot be written.
        """
        self.workdir = Path(workdir)
        if sizes is None:
            self._refuse_a_run()  # before the lock, which would leave its mark there
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(self.workdir)
            if sizes is None:
                self._refuse_a_run()  # one may have begun and ended in between
            else:
                self._cut_back(sizes)
            _write_json(self.workdir / CONFIG_FILE, config.to_dict())
            if sizes is None:
                _write_json(self.workdir / VERSIONS_FILE, versions())
        except OSError as error:
            raise UserError(f"cannot write to {self.workdir}: {error.strerror}") from (
                error
            )
        # tensorboardX's SummaryWriter sends points through a thread, so that its
        # flush() may return before they are written; its event writer does not.
        # TensorBoard reads files in the order of their names, which end in the clock.
        number = len(self._event_files())
        prefix = f"events.resumed{number:05d}" if number else "events"
        self._writer = EventsWriter(str(self.workdir / prefix))
        if sizes is None:
            with open(self.workdir / EPISODES_FILE, "w", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow(EPISODE_COLUMNS)

    def sizes(self) -> dict[str, int]:
        """Returns the bytes of each file that grows with the run, by name."""
        self._writer.flush()
        files = [self.workdir / EPISODES_FILE, *self._event_files()]
        return {path.name: path.stat().st_size for path in files}

    def _event_files(self) -> list[Path]:
        return sorted(self.workdir.glob("events.*tfevents.*"))

    def _cut_back(self, sizes: dict[str, int]) -> None:
        for path in self._event_files():
            if path.name not in sizes:
                path.unlink()
        for name, size in sizes.items():
            path = self.workdir / Path(name).name
            if not path.is_file() or path.stat().st_size < size:
                raise UserError(f"{path} is missing or shorter than at the checkpoint")
            os.truncate(path, size)

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
        self._writer.write_event(
            Event(wall_time=time.time(), step=step, summary=summary)
        )
        self._writer.flush()

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
        with open(self.workdir / EPISODES_FILE, "a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            for r in results:
                success = (int(r.success_any), int(r.success_chunk))
                total = repr(float(r.episode_return))
                ending = (total, r.length, int(r.fault))
                writer.writerow([control_steps, policy, r.seed, *success, *ending])

    def close(self) -> None:
        """Closes the TensorBoard file and frees the folder."""
        self._writer.close()
        self._lock.release()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def read_config(workdir: str | Path) -> ConfigDict:
    """Returns the locked configuration of the run in `workdir`.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    path = Path(workdir) / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{workdir} is no run folder: it holds no {CONFIG_FILE}")
    try:
        config = ConfigDict(_lists_to_tuples(json.loads(path.read_text("utf-8"))))
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
