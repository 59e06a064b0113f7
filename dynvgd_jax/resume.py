"""What a run needs beside its learner to go on exactly where a checkpoint left it.

`resume/<control steps>/` holds the state of environments and episodes (arrays, see
runs/checkpoint.py), `resume/<control steps>.json` everything of varying length. Both
are written before the learner's checkpoint of the same number, so that a checkpoint
that exists can be resumed from.
"""

import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from dynvgd_jax.agent import CHECKPOINTS
from dynvgd_jax.config_check import field_names, get_field
from dynvgd_jax.errors import UserError
from dynvgd_jax.rollout import Books, Collector
from dynvgd_jax.runs.checkpoint import KEPT_CHECKPOINTS, CheckpointStore
from dynvgd_jax.runs.durable import write_durably
from dynvgd_jax.runs.metrics import read_config
from dynvgd_jax.runs.replay_log import ReplayLog

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
    "replay.offline_dataset",  # its place; its content is compared
)


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


def find_saved(workdir: Path, config: ConfigDict) -> Saved:
    """Returns the newest checkpoint of a run that is sound; warns of damaged ones.

    Raises:
      UserError: no checkpoint can be resumed from, or `config` is another run's.
    """
    for change in compare_configs(workdir, config):
        log.warning("resuming with %s", change)
    checkpoints = CheckpointStore(workdir / CHECKPOINTS)
    store = ResumeStore(workdir, checkpoints)
    for env_steps in store.candidates():
        try:
            return store.read_sound(env_steps)
        except UserError as error:
            log.warning("checkpoint %s cannot be used: %s", env_steps, error)
    raise UserError(
        f"the run in {workdir} has no sound checkpoint to go on from; remove the "
        "folder and start anew, or give another with --workdir"
    )


class ResumeStore:
    """The resumable states of one run, beside its checkpoints."""

    def __init__(self, workdir: Path, checkpoints: CheckpointStore):
        self._workdir = workdir
        self._arrays = CheckpointStore(workdir / RESUME)
        self._checkpoints = checkpoints

    def save(self, env_steps: int, collector: Collector, notes: dict) -> None:
        """Saves environments and episodes as arrays, `notes` as JSON."""
        self._arrays.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(notes, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        content = json.dumps({"sha256": digest, "notes": text}).encode()
        write_durably(self._notes_path(env_steps), content)
        self._arrays.save(env_steps, collector_tree(collector))
        for path in self._arrays.folder.glob("*.json"):
            if int(path.stem) not in self._arrays.steps():
                path.unlink()

    def candidates(self) -> list[int]:
        """The checkpoints that can be resumed from, newest first."""
        both = set(self._checkpoints.steps()) & set(self._arrays.steps())
        return sorted(both, reverse=True)[:KEPT_CHECKPOINTS]

    def read_sound(self, env_steps: int) -> Saved:
        """Returns a checkpoint's notes; UserError where any of its files is damaged."""
        self._checkpoints.verify(env_steps)
        self._arrays.verify(env_steps)
        path = self._notes_path(env_steps)
        try:
            content = json.loads(path.read_bytes())
            text = content["notes"]
            if hashlib.sha256(text.encode()).hexdigest() != content["sha256"]:
                raise ValueError("not as it was written")
            notes = json.loads(text)
            segments = notes["segments"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged: {error}") from error
        ReplayLog(self._workdir / REPLAY, segments).verify()
        return Saved(env_steps, notes)

    def restore_collector(self, env_steps: int, collector: Collector) -> None:
        """Puts environments and episodes back; UserError where they do not fit."""
        tree = self._arrays.restore(env_steps, collector_tree(collector))
        collector.books = Books(*tree["books"])
        collector.obs = tree["obs"]
        collector.next_episode = tree["next_episode"]
        collector.env.set_state(tree["env"])

    def forget_after(self, env_steps: int) -> None:
        """Deletes what was saved later: the run goes on from `env_steps`."""
        for store in (self._checkpoints, self._arrays):
            for step in store.steps():
                if step > env_steps:
                    shutil.rmtree(store.folder / str(step))

    def _notes_path(self, env_steps: int) -> Path:
        return self._arrays.folder / f"{env_steps}.json"


def collector_tree(collector: Collector) -> dict[str, Any]:
    """Returns the state of training rollouts as a tree of arrays of fixed shapes."""
    return {
        "books": tuple(collector.books),
        "obs": collector.obs,
        "next_episode": collector.next_episode,
        "env": collector.env.get_state(),
    }


def _field_text(config: ConfigDict, name: str) -> str:
    if name not in field_names(config):
        return "nothing"
    return repr(get_field(config, name))
