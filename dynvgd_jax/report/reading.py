"""Runs as their folders hold them: configuration, versions, evaluations, curves."""

import csv
import functools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dynvgd_jax import __version__
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import flat
from dynvgd_jax.core.scores import SCORE, SUCCESS, measure, normalised_score
from dynvgd_jax.core.untrusted import load_json
from dynvgd_jax.report.events import Curve, read_command, read_curves
from dynvgd_jax.runs.lock import LOCK_FILE
from dynvgd_jax.runs.metrics import EPISODE_COLUMNS, EPISODES_FILE, event_files
from dynvgd_jax.runs.settings import CONFIG_FILE, VERSIONS_FILE, read_config
from dynvgd_jax.runs.terminal import PATIENCE_S, Progress

# Without these a run cannot be placed beside others.
NEEDED_FIELDS = ("task", "method", "seed", "ddim_steps", "acting_noise", "base_policy")
NEEDED_FIELDS += ("policy_kind",)
NEEDED_FIELDS += ("total_env_steps", "eval.seed", "eval.episodes", "eval.noises")
# What lies in a run's folder and is no run.
_INSIDE_A_RUN = {"checkpoints", "resume", "replay", "policy", "audit"}
_INSIDE_A_RUN |= {"evaluations"}
_BASE = "base/"  # evaluations of the unguided policy


Row = Sequence[str]  # of eval.csv


class Episode(NamedTuple):
    """One evaluation episode."""

    # a whole chunk (published success), 0 or 1; of tasks that are judged by return
    # D4RL's score / 100 or, without one, the return
    success: float
    success_any: int  # any control step, 0 or 1
    total: float  # sum of (reward - reward_offset)


Judge = Callable[[Row], Episode]  # ValueError where a row is incomplete


class Run(NamedTuple):
    """One seed of one setting."""

    folder: Path
    name: str  # the folder as the page has it
    config: dict[str, Any]  # by dotted name
    versions: dict[str, str]  # empty where the run has no versions.json
    # policy and start noise -> control steps -> seed of the episode -> its outcome
    evaluations: dict[str, dict[int, dict[int, Episode]]]
    curves: dict[str, Curve]  # TensorBoard
    command: str  # that began it, "" where it is not kept

    @property
    def steered(self) -> dict[int, dict[int, Episode]]:
        """The evaluations of what the run trains, by control steps in order."""
        found: dict[int, dict[int, Episode]] = {}
        for policy, by_steps in self.evaluations.items():
            if not policy.startswith(_BASE):
                found |= by_steps
        return dict(sorted(found.items()))

    @property
    def bases(self) -> dict[str, dict[int, Episode]]:
        """The base policy's evaluation before training, by start noise."""
        return {
            policy: by_steps[min(by_steps)]
            for policy, by_steps in self.evaluations.items()
            if policy.startswith(_BASE)
        }

    @property
    def control_steps(self) -> int:
        """How far the run is known to be, over all environments."""
        ends = [int(c.steps[-1]) for c in self.curves.values()]
        return max([0, *self.steered, *ends])

    @property
    def minutes(self) -> float:
        """How long it ran, pauses left out, up to its newest curve point."""
        return max([0.0, *(float(c.minutes[-1]) for c in self.curves.values())])

    def minutes_at(self, control_steps: int) -> float:
        """Returns after how many minutes an evaluation was done; NaN where unknown."""
        curve = self.curves.get("eval/success_rate")
        found = None if curve is None else curve.minutes_at(control_steps)
        return float("nan") if found is None else found

    @property
    def is_finished(self) -> bool:
        """Whether its last evaluation is there."""
        if self.config["method"] == "base":
            return {f"{_BASE}{n}" for n in self.config["eval.noises"]} <= set(
                self.bases
            )
        return max(self.steered, default=-1) >= self.config["total_env_steps"]


class Found(NamedTuple):
    """All that was read."""

    runs: list[Run]
    notes: list[str]  # what was left out or is missing, a line each


def find_runs(paths: Sequence[Path]) -> Found:
    """Reads every training run in `paths`, which may lie any number of folders deep.

    Raises:
      UserError: a path holds no run, or none of the runs can be read.
    """
    folders: dict[Path, tuple[Path, str]] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path} is no run folder: there is no such folder")
        own = list(_run_folders(path))
        if not own:
            raise UserError(f"{path} holds no run: no {CONFIG_FILE} in it or below it")
        for folder in own:
            folders.setdefault(folder.resolve(), (folder, _name(folder, path)))
    names = [name for _, name in folders.values()]
    folders = {
        place: (folder, name if names.count(name) == 1 else str(folder))
        for place, (folder, name) in folders.items()
    }
    runs, notes = [], []
    with Progress(len(folders), unit="runs read", patience_s=PATIENCE_S) as bar:
        for number, (_, (folder, name)) in enumerate(sorted(folders.items())):
            bar.update(number, stage=name)
            try:
                run = _read_run(folder, name, notes)
            except UserError as error:
                notes.append(f"left out: {error}")
                continue
            if run is not None:
                runs.append(run)
        bar.update(len(folders))
    if not runs:
        raise UserError("; ".join(note.removeprefix("left out: ") for note in notes))
    return Found(runs, notes)


def _run_folders(path: Path) -> Iterable[Path]:
    for place, inside, files in os.walk(path):
        if CONFIG_FILE in files:
            yield Path(place)
            inside[:] = set(inside) - _INSIDE_A_RUN
        inside.sort()


def _name(folder: Path, path: Path) -> str:
    """The folder, from the last part of the path that was given."""
    return str(Path(path.resolve().name) / folder.relative_to(path))


def _read_run(folder: Path, name: str, notes: list[str]) -> Run | None:
    """Returns the run, or None for another job; adds what is missing to `notes`."""
    config = read_config(folder)
    if config.get("job") != "train":
        notes.append(f"left out: {name} is no training run (job {config.get('job')!r})")
        return None
    if _is_evaluation(folder):
        notes.append(
            f"left out: {name} is an evaluation by itself, no training run: it has "
            "neither TensorBoard files nor checkpoints"
        )
        return None
    fields = flat(config)
    lacking = [field for field in NEEDED_FIELDS if field not in fields]
    if lacking:
        raise UserError(
            f"{name} is a run of another version: its {CONFIG_FILE} has no "
            f"{', '.join(lacking)}"
        )
    versions = _versions(folder, name, notes)
    judge = functools.partial(_judged, fields["task"], fields.get("reward_offset", 1.0))
    evaluations = _evaluations(folder, name, fields["eval.episodes"], judge, notes)
    run = Run(
        folder,
        name,
        fields,
        versions,
        evaluations,
        read_curves(folder),
        read_command(folder),
    )
    if not run.curves:
        notes.append(f"{name} has no TensorBoard curves: no minutes, λ, w, Q of it")
    if not run.is_finished:
        total = run.config["total_env_steps"]
        notes.append(
            f"{name} is unfinished: {run.control_steps:,} of {total:,} control steps"
        )
    return run


def _is_evaluation(folder: Path) -> bool:
    """Whether `dynvgd_jax.evaluate` wrote it, with the configuration of its subject.

    Whatever trains makes a lock and an event file before all else.
    """
    of_training = (folder / LOCK_FILE, folder / "checkpoints", *event_files(folder))
    return (folder / EPISODES_FILE).is_file() and not any(
        path.exists() for path in of_training
    )


def _versions(folder: Path, name: str, notes: list[str]) -> dict[str, str]:
    path = folder / VERSIONS_FILE
    if not path.is_file():
        notes.append(f"{name} has no {VERSIONS_FILE}: what made it is unknown")
        return {}
    versions = {str(k): str(v) for k, v in load_json(path).items()}
    made_by = versions.get("dynvgd_jax", "none")
    if made_by != __version__:
        notes.append(
            f"{name} is a run of another version: made by dynvgd_jax {made_by}, this "
            f"is {__version__}"
        )
    return versions


def _judged(task: str, reward_offset: float, row: Row) -> Episode:
    """What an episode of eval.csv is worth."""
    _, _, _, any_step, chunk, total, length = row
    kind, own = measure(task), float(total)
    worth: float = int(chunk)
    if kind != SUCCESS:
        worth = own + reward_offset * int(length)
    if kind == SCORE:
        worth = float(normalised_score(task, worth)) / 100
    return Episode(worth, int(any_step), own)


def _evaluations(
    folder: Path, name: str, episodes: int, judge: Judge, notes: list[str]
) -> dict:
    """Reads eval.csv; evaluations that lack episodes are left out and said.

    A resumption may have raised eval.episodes, `episodes` by now: earlier evaluations,
    several with one lower count, lack nothing.
    """
    path = folder / EPISODES_FILE
    if not path.is_file():
        notes.append(f"{name} has no {EPISODES_FILE}: nothing is evaluated yet")
        return {}
    try:
        found = _read_episodes(path, name, judge, notes)
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{name}: its {EPISODES_FILE} is damaged: {error}") from error
    counts = Counter(
        len(own) for by_steps in found.values() for own in by_steps.values()
    )
    earlier: dict[int, list[str]] = {}
    for policy, by_steps in found.items():
        for steps, own in list(by_steps.items()):
            count = len(own)
            if count >= episodes:
                continue
            if counts[count] > 1:  # what was cut off ends anywhere, and once
                earlier.setdefault(count, []).append(f"{policy} at {steps:,}")
                continue
            notes.append(
                f"{name}: left out {policy} at {steps:,} control steps, which has "
                f"{count} of {episodes} episodes"
            )
            del by_steps[steps]
    for count, places in sorted(earlier.items()):
        notes.append(
            f"{name}: {len(places)} evaluations have {count} episodes, as many as "
            f"eval.episodes said before it became {episodes}: {', '.join(places)}"
        )
    return {policy: by_steps for policy, by_steps in found.items() if by_steps}


def _read_episodes(path: Path, name: str, judge: Judge, notes: list[str]) -> dict:
    """Policy -> control steps -> seed -> its episode, of every row of eval.csv."""
    found: dict[str, dict[int, dict[int, Episode]]] = {}
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        columns = tuple(next(rows, ()))
        if columns != EPISODE_COLUMNS:
            raise UserError(
                f"{name} is a run of another version: its {EPISODES_FILE} has the "
                f"columns {', '.join(columns) or 'none'}, expected "
                f"{', '.join(EPISODE_COLUMNS)}"
            )
        for number, row in enumerate(rows, 2):
            try:
                episode = judge(row)
                steps, policy, seed, *_ = row
                by_steps = found.setdefault(policy, {})
                by_steps.setdefault(int(steps), {})[int(seed)] = episode
            except ValueError:  # a run that is being written, or was cut off
                notes.append(f"{name}: {EPISODES_FILE} line {number} is incomplete")
    return found
