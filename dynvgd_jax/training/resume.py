"""What a run needs beside its learner to go on exactly where a checkpoint left it.

`resume/<control steps>/` holds the state of environments and episodes (arrays, see
runs/checkpoint.py), `resume/<control steps>.json` everything of varying length. Both
are written before the learner's checkpoint of the same number, so that a checkpoint
that exists can be resumed from.
"""

import errno
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from dynvgd_jax.agent import CHECKPOINTS, POLICY, SOURCE_FILE
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.fields import field_names, get_field
from dynvgd_jax.core.untrusted import load_json
from dynvgd_jax.envs.rollout import Books, Collector
from dynvgd_jax.replay.log import OlderRunError, ReplayLog
from dynvgd_jax.runs.checkpoint import CheckpointStore
from dynvgd_jax.runs.durable import (
    entries,
    refuse_link,
    refuse_links,
    refuse_shared,
    remove,
    remove_partials,
    write_durably,
)
from dynvgd_jax.runs.lock import LOCK_FILE, FolderLock
from dynvgd_jax.runs.metrics import (
    EPISODE_COLUMNS,
    EPISODES_FILE,
    check_sizes,
    event_files,
)
from dynvgd_jax.runs.settings import CONFIG_FILE, VERSIONS_FILE, read_config, versions
from dynvgd_jax.training import processes
from dynvgd_jax.training.origins import check_critics, check_policy

log = logging.getLogger(__name__)

RESUME = "resume"
REPLAY = "replay"  # the replay buffer's transitions

# Budgets, evaluation and what only concerns files or speed; all else is the run's
# meaning.
CHANGEABLE = (
    "total_env_steps",
    "eval.",
    "checkpoint.",
    "log.",
    "env.num_threads",
    # places, whose content is compared
    "replay.offline_dataset",
    "base_policy",
    "initial_critics",
)
# Folders that a run makes in its own, and deletes from.
OWN_FOLDERS = (CHECKPOINTS, RESUME, REPLAY, POLICY)


KEPT_CHECKPOINTS = 2
MAX_NOTES_BYTES = 64 * 2**20  # ours take some 100 kB


class Saved(NamedTuple):
    """A checkpoint to go on from."""

    env_steps: int  # control steps behind it
    notes: dict[str, Any]  # what has no fixed size; see train.Run


def compare_configs(workdir: Path, config: ConfigDict) -> list[str]:
    """Returns the changed fields as text, `config.x: old -> new`.

    Raises:
      UserError: `workdir` holds no run, or a change would make it another run.
    """
    old = read_config(workdir)
    changes, forbidden = [], []
    names = sorted({*field_names(old), *field_names(config)})
    for name in names:
        before, after = _field_text(old, name), _field_text(config, name)
        if before != after:
            text = f"config.{name}: {before} -> {after}"
            (changes if name.startswith(CHANGEABLE) else forbidden).append(text)
    if forbidden:
        raise UserError(
            f"the run in {workdir} cannot go on with {'; '.join(forbidden)}; give the "
            "old values, or start a new run with another --workdir"
        )
    return changes


def compare_versions(workdir: Path) -> list[str]:
    """Returns what decides the numbers and is another since the run began, as text.

    The bits of a resumed run are promised for equal versions only.
    """
    try:
        old, new = load_json(workdir / VERSIONS_FILE), versions()
    except UserError as error:
        return [f"unknown versions: {error}"]
    names = sorted({*old, *new} - {"git_commit"})
    return [
        f"{name}: {old.get(name, 'unknown')} -> {new.get(name, 'unknown')}"
        for name in names
        if old.get(name) != new.get(name)
    ]


def lock_runs(workdir: Path, folders: Sequence[Path]) -> list[FolderLock]:
    """Locks the folders of a run that goes on, one a seed.

    Raises:
      UserError: there is no run in them, it has another number of seeds, another
        process has it, it is read-only, or a link inside leads out of it.
    """
    if not workdir.is_dir():
        raise UserError(f"{workdir} is no run folder: there is no such folder")
    for folder in folders:
        if folder != workdir:
            refuse_link(folder)
        for name in OWN_FOLDERS:
            refuse_links(folder / name)
        for path in (folder / EPISODES_FILE, *event_files(folder)):
            refuse_shared(path)
    several = [path for path in workdir.glob("seed*") if path.is_dir()]
    setting_up = several and not any(map(_has_results, several))
    if len(folders) > 1 and setting_up and {*several} <= {*folders}:
        for folder in folders:  # it died before it had them all
            folder.mkdir(exist_ok=True)
    locks = []
    try:
        for folder in folders:
            locks.append(_lock_run(folder))
    except UserError as error:
        for lock in locks:
            lock.release()
        hint = f"; it holds {len(several)} seeds, see config.num_seeds"
        raise UserError(f"{error}{hint if several else ''}") from error
    return locks


def _lock_run(folder: Path) -> FolderLock:
    if not folder.is_dir():
        raise UserError(f"{folder} is no run folder: there is no such folder")
    names = {path.name for path in folder.iterdir()}
    if names and not names & {CONFIG_FILE, LOCK_FILE}:
        raise UserError(f"{folder} is no run folder: it holds no {CONFIG_FILE}")
    try:
        return FolderLock(folder)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error


def find_saved(
    folders: Sequence[Path], configs: Sequence[ConfigDict]
) -> list[Saved | None]:
    """Returns the newest checkpoint that all seeds have and that is sound.

    Warns of damaged checkpoints and of changed settings and versions.

    Args:
      folders: of a run's seeds.
      configs: what each shall go on with.

    Returns: one entry a seed; None in all where the run wrote no checkpoint yet.

    Raises:
      UserError: no checkpoint can be resumed from, or `configs` are another run's.
    """
    nothing = [None] * len(folders)
    begun = [f for f in folders if (f / CONFIG_FILE).exists() or _has_results(f)]
    changes: dict[str, None] = {}  # in order, each once
    for folder, config in zip(folders, configs, strict=True):
        if folder in begun:
            found = (*compare_configs(folder, config), *compare_versions(folder))
            changes |= dict.fromkeys(found)
    if folders[0] in begun:  # all seeds have the same
        changes |= dict.fromkeys(check_policy(folders[0], configs[0]))
    for change in changes:
        log.warning("resuming with %s", change)
    stores = [ResumeStore(folder) for folder in folders]
    steps = set.intersection(*(set(store.candidates()) for store in stores))
    for env_steps in sorted(steps, reverse=True):
        try:
            found = [store.read_sound(env_steps) for store in stores]
        except OlderRunError:
            raise
        except (UserError, OSError) as error:
            log.warning("checkpoint %s cannot be used: %s", env_steps, error)
            continue
        check_critics(folders[0], configs[0], found[0].notes)
        return found
    if not steps and not any(map(_has_results, folders)):
        for folder in folders:  # a run begun here would delete them
            if (folder / SOURCE_FILE).exists():
                raise UserError(
                    f"{folder} holds critics and no run to go on with; begin one from "
                    f"them: --config.initial_critics={folder} with another --workdir"
                )
        return nothing  # died before its first checkpoint, which is written at once
    raise UserError(
        f"the run in {_common(folders)} has no sound checkpoint to go on from; remove "
        "the folder and start anew, or give another with --workdir"
    )


def _common(folders: Sequence[Path]) -> Path:
    return folders[0] if len(folders) == 1 else folders[0].parent


def _has_results(workdir: Path) -> bool:
    """Whether the run has got as far as its first checkpoint, to judge by the rest."""
    episodes, heading = workdir / EPISODES_FILE, ",".join(EPISODE_COLUMNS)
    evaluated = episodes.exists() and episodes.stat().st_size > len(heading) + 1
    return evaluated or (workdir / REPLAY).exists()


def is_finished(workdir: Path) -> bool:
    """Whether the run in `workdir` did all that its configuration says.

    False of a run of several seeds, whose folders tell each of itself.

    Raises:
      UserError: its configuration or its newest checkpoint's notes are damaged.
    """
    store = ResumeStore(workdir)
    steps = store.candidates()
    if not steps:
        return False
    budget = read_config(workdir).total_env_steps  # may have been raised since
    return store._read_notes(steps[0]).get("finished_env_steps") == budget


class ResumeStore:
    """The resumable states of one run: checkpoints and what belongs to them."""

    def __init__(self, workdir: Path):
        self._workdir = workdir
        self._arrays = CheckpointStore(workdir / RESUME)
        self._checkpoints = CheckpointStore(workdir / CHECKPOINTS)

    def save(self, env_steps: int, learner_tree: dict, envs: dict, notes: dict) -> None:
        """Saves a checkpoint beside the others; `keep_common` deletes old ones.

        Where there is one of `env_steps` already, only its notes are replaced.

        Args:
          env_steps: control steps behind it.
          learner_tree: of `agent.checkpoint_tree`.
          envs: of `collector_tree`.
          notes: values that JSON keeps.

        Raises:
          OSError: the disk is full or read-only; older checkpoints are as they were.
        """
        self._arrays.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(notes, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        content = json.dumps({"sha256": digest, "notes": text}).encode()
        if len(content) > MAX_NOTES_BYTES:  # could be written, but never read again
            raise OSError(errno.EFBIG, f"{len(content):,} bytes of notes")
        try:
            write_durably(self._notes_path(env_steps), content)
            if env_steps not in self._arrays.steps():
                self._arrays.save(env_steps, envs)
            if env_steps not in self._checkpoints.steps():
                self._checkpoints.save(env_steps, learner_tree)
        except OSError:
            if env_steps not in self.candidates():  # gives its space back
                self._arrays.keep([n for n in self._arrays.steps() if n != env_steps])
                remove(self._notes_path(env_steps))
            raise

    def candidates(self) -> list[int]:
        """The checkpoints that can be resumed from, newest first."""
        both = set(self._checkpoints.steps()) & set(self._arrays.steps())
        return sorted(both, reverse=True)

    def read_sound(self, env_steps: int) -> Saved:
        """Returns a checkpoint's notes; UserError where any of its files is damaged."""
        self._checkpoints.verify(env_steps)
        self._arrays.verify(env_steps)
        notes = self._read_notes(env_steps)
        check_sizes(self._workdir, notes["sizes"])
        # capacity: nothing is written here
        ReplayLog(self._workdir / REPLAY, 1, notes["segments"]).verify()
        return Saved(env_steps, notes)

    def restore_learner(self, env_steps: int, template: dict) -> dict:
        """Returns the tree of `agent.checkpoint_tree`; UserError where it misfits."""
        return self._checkpoints.restore(env_steps, template)

    def restore_collector(self, env_steps: int, collector: Collector) -> None:
        """Puts environments and episodes back; UserError where they do not fit.

        The checkpoint holds those of all processes, of which this one takes its own.
        """
        own = collector_tree(collector)
        everyone = jax.tree.map(
            lambda leaf: np.concatenate([leaf] * processes.count()), own
        )
        tree = self._arrays.restore(env_steps, everyone)
        share = processes.own_share(len(tree["obs"]))
        tree = jax.tree.map(lambda leaf: leaf[share], tree)
        collector.books = Books(*tree["books"])
        collector.obs = tree["obs"]
        collector.env.set_state(tree["env"])

    def forget_after(self, env_steps: int) -> None:
        """Deletes what was saved later: the run goes on from `env_steps`."""
        for folder in (CHECKPOINTS, RESUME, REPLAY):
            remove_partials(self._workdir / folder)
        self.keep([step for step in self.candidates() if step <= env_steps])

    def keep(self, kept: Sequence[int], segments: Sequence[str] = ()) -> None:
        """Deletes all checkpoints but `kept`, and replay segments of no use to them.

        Args:
          kept: control steps of those that stay.
          segments: names of replay segments that stay, whoever names them.

        Raises:
          OSError: something cannot be deleted, or a link stands in a folder's place.
        """
        self._checkpoints.keep(kept)
        self._arrays.keep(kept)
        for path in entries(self._arrays.folder):
            if path.suffix == ".json" and path.stem not in map(str, kept):
                remove(path)
        try:
            used = [s["name"] for n in kept for s in self._read_notes(n)["segments"]]
        except UserError:
            return  # a damaged one tells nothing; its segments go with it, later
        ReplayLog(self._workdir / REPLAY, 1).keep([*used, *segments])

    def _read_notes(self, env_steps: int) -> dict[str, Any]:
        path = self._notes_path(env_steps)
        content = load_json(path, MAX_NOTES_BYTES)
        try:
            text = content["notes"]
            if hashlib.sha256(text.encode()).hexdigest() != content["sha256"]:
                raise ValueError("not as it was written")
            return json.loads(text)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged: {error}") from error

    def _notes_path(self, env_steps: int) -> Path:
        return self._arrays.folder / f"{env_steps}.json"


def keep_common(
    stores: Sequence[ResumeStore], segments: Sequence[Sequence[str]] = ()
) -> None:
    """Keeps the newest checkpoints that all seeds of a run have, and no others.

    Call it when all have been asked to save, also where some could not: what only
    others have can never be resumed from, and its space may be what is missing.

    Args:
      stores: of the seeds.
      segments: of each seed, names of the replay segments that its run goes on from.
        Those of a checkpoint that failed are written already, and the next one names
        them.

    Raises:
      OSError: something cannot be deleted.
    """
    common = set.intersection(*(set(store.candidates()) for store in stores))
    kept = sorted(common, reverse=True)[:KEPT_CHECKPOINTS]
    if not kept:
        return
    for store, names in zip(stores, segments or [()] * len(stores), strict=True):
        store.keep(kept, names)


def collector_tree(collector: Collector) -> dict[str, Any]:
    """Returns the state of training rollouts as a tree of arrays of fixed shapes."""
    return {
        "books": tuple(collector.books),
        "obs": collector.obs,
        "env": collector.env.get_state(),
    }


def _field_text(config: ConfigDict, name: str) -> str:
    if name not in field_names(config):
        return "nothing"
    return repr(get_field(config, name))
