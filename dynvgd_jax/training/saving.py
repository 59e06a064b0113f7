"""Checkpoints of a run: everything it needs to go on from there, bit for bit."""

import logging
import time
from typing import Any

import jax
import numpy as np

from dynvgd_jax.agent import checkpoint_tree
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.types import EpisodeResult, PyTree, Transition
from dynvgd_jax.runs.summary import Summary
from dynvgd_jax.steering.methods import state_shapes
from dynvgd_jax.training import processes
from dynvgd_jax.training.origins import CRITICS_NOTE
from dynvgd_jax.training.reporting import ADVICE, fetch, refuse_divergence
from dynvgd_jax.training.resume import collector_tree, keep_common
from dynvgd_jax.training.state import RunState, SeedState

log = logging.getLogger(__name__)

# A checkpoint that the disk refused is tried again after this long, at the earliest.
RETRY_CHECKPOINT_S = 60.0


def save(run: RunState, required: bool = False) -> None:
    """Saves a checkpoint of every seed, then deletes those that are older.

    Where the disk does not take it, the run goes on with a warning and tries again
    later; with `required`, UserError. All processes do the same: what they exchange is
    exchanged before anything is written, and they agree on a failure.
    """
    fetch(run)
    parts = [_gather(run, place) for place in range(len(run.seeds))]
    failed: OSError | None = None
    if processes.is_first():
        for seed, part in zip(run.seeds, parts, strict=True):
            try:
                _write(seed, run, *part)
            except OSError as error:
                failed = failed or error
        try:
            segments = [
                [segment["name"] for segment in seed.replay_log.segments]
                for seed in run.seeds
            ]
            keep_common([seed.store for seed in run.seeds], segments)
        except OSError as error:
            failed = failed or error
    text = processes.gather_objects(None if failed is None else str(failed))[0]
    if text is None:
        run.retry_at = None
        return
    text = f"no checkpoint at {run.env_steps:,} control steps: {text}"
    if required:
        raise UserError(
            f"{text}; what was saved before is kept; free space or make the folder "
            "writable, then go on with --resume"
        ) from failed
    log.warning("%s; the run goes on and tries again", text)
    run.retry_at = time.monotonic() + RETRY_CHECKPOINT_S


def has_checkpoint(run: RunState) -> bool:
    """Whether there is one of this very moment."""
    return processes.any_of(
        processes.is_first()
        and all(run.env_steps in seed.store.candidates() for seed in run.seeds)
    )


def restore(run: RunState) -> None:
    """Puts back what `save` saved and deletes what was saved later."""
    job = run.job
    template = state_shapes(job.method)
    learners = processes.by_all(lambda: [restore_seed(s, template) for s in run.seeds])
    run.learner = job.programs.put(learners)
    run.env_steps = job.saved.env_steps
    if run.replay is not None:
        _refill_replay(run)
    run.to_evaluate = job.saved.notes["to_evaluate"]
    forget_after(run, run.env_steps)
    job.progress.restart_rate(run.env_steps)
    job.progress.message(f"resumed at {run.env_steps:,} control steps")


def forget_after(run: RunState, env_steps: int) -> None:
    """Deletes what was saved later: the run goes on from `env_steps`."""

    def forget() -> None:
        for seed in run.seeds:
            seed.store.forget_after(env_steps)

    processes.by_first(forget)


def _gather(run: RunState, place_of_seed: int) -> tuple[PyTree, PyTree]:
    """Returns one seed's learner and environments, of all processes, on the host.

    Raises:
      UserError: a value is not finite.
    """
    seed, env_steps = run.seeds[place_of_seed], run.env_steps
    refuse_divergence(seed)
    learner = run.job.placement.take(run.learner, place_of_seed)
    tree = jax.device_get(checkpoint_tree(learner, env_steps))
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)):
        raise UserError(
            f"training diverged: the critics hold values that are not finite at "
            f"{env_steps:,} control steps; {ADVICE}"
        )
    seed.share_episodes()
    _hand_over_fresh(seed)
    return tree, processes.concatenate(collector_tree(seed.collector))


def _write(seed: SeedState, run: RunState, tree: PyTree, envs: PyTree) -> None:
    """Writes what `_gather` returned, and all of varying size; OSError of the disk."""
    notes = {
        "sizes": seed.log.sizes(),
        "segments": seed.replay_log.write(),
        "pending": [[n, {k: float(v) for k, v in m.items()}] for n, m in seed.pending],
        "recent": [list(result) for result in seed.recent],
        "summaries": [list(summary) for summary in seed.summaries],
        "to_evaluate": run.to_evaluate,
        "finished_env_steps": seed.config.total_env_steps if run.finished else None,
        "offline_sha256": seed.offline_sha256,
        CRITICS_NOTE: seed.critics_sha256,
    }
    seed.store.save(run.env_steps, tree, envs, notes)


def restore_seed(seed: SeedState, template: PyTree) -> PyTree:
    """Puts back what `save` saved of one seed and returns the learner.

    Args:
      seed: whose `saved` is the checkpoint.
      template: the learner's tree as shapes.
    """
    saved = seed.saved
    tree: dict[str, Any] = seed.store.restore_learner(
        saved.env_steps, checkpoint_tree(template, 0)
    )
    seed.store.restore_collector(saved.env_steps, seed.collector)
    for env_steps, values in saved.notes["pending"]:
        values = {k: np.float32(v) for k, v in values.items()}
        seed.pending.append((env_steps, values))
    seed.recent.extend(EpisodeResult(*r) for r in saved.notes["recent"])
    seed.summaries = [Summary(*s) for s in saved.notes["summaries"]]
    return tree["learner"]


def _hand_over_fresh(seed: SeedState) -> None:
    """Gives the new transitions of all processes to the log, in order."""
    if not seed.fresh:
        return
    steps: Transition = jax.tree.map(lambda *leaves: np.stack(leaves), *seed.fresh)
    steps = processes.concatenate(steps, axis=1)  # [vector steps, all envs, ...]
    seed.replay_log.add(
        jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), steps)
    )
    seed.fresh = []


def _refill_replay(run: RunState) -> None:
    stored = run.seeds[0].replay_log.total
    if not stored:
        return
    replay, config = run.replay, run.job.config
    shape = (replay.num_shards, replay.shard_capacity)

    def read(seed: SeedState) -> Transition:
        rings = seed.replay_log.read(shape, run.job.example, config.num_envs)
        return jax.tree.map(lambda leaf: leaf[replay.own_shards], rings)

    rings = processes.by_all(lambda: [read(seed) for seed in run.seeds])
    replay.refill(rings, stored // replay.num_shards)
