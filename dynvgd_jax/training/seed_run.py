"""One seed's share of a training run: its rollouts, their books, and its files."""

import logging
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from dynvgd_jax.agent import POLICY, checkpoint_tree
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.types import EpisodeResult, Transition, VectorEnv
from dynvgd_jax.diffusion.policy import Policy, save_policy
from dynvgd_jax.envs.rollout import Collector
from dynvgd_jax.replay.log import ReplayLog
from dynvgd_jax.runs.lock import FolderLock
from dynvgd_jax.runs.metrics import MetricsLog
from dynvgd_jax.runs.report import Summary, summarise
from dynvgd_jax.steering.vgd import LearnerState
from dynvgd_jax.training import processes
from dynvgd_jax.training.divergence import Record, diagnose
from dynvgd_jax.training.resume import REPLAY, ResumeStore, Saved, collector_tree

log = logging.getLogger(__name__)

# Training calls whose scalars a diagnosis of divergence looks back on.
RECENT_CALLS = 200
# Finished training episodes over which success and return are averaged.
RECENT_EPISODES = 100

# Uses of the run's key; a key is drawn from one of these and a counter.
INIT_KEY, ACT_KEY, UPDATE_KEY = range(3)

ADVICE = "the last checkpoint is kept; lower learning_rate or guidance.scale"


class SeedRun:
    """What a run has once for each of its seeds; `train.Run` has the rest.

    In a run of several processes each has its environments here, and the first one
    the files. Public methods are called by all processes at the same time.
    """

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        policy: Policy,
        env: VectorEnv,
        *,
        saved: Saved | None,
        lock: FolderLock | None,
        resuming: bool,
        offline_sha256: str | None,
    ):
        """Opens the run's files.

        Args:
          config: of this seed alone.
          workdir: this seed's folder.
          policy: base policy, whose copy goes there.
          env: this process's training environments.
          saved: what the run goes on from; None begins anew.
          lock: of the folder, where it is held already.
          resuming: the folder may hold a run, whose files are continued.
          offline_sha256: of the offline transitions, if any.

        Raises:
          UserError: the folder is taken or cannot be written.
        """
        self.config, self.workdir, self.env = config, workdir, env
        self.seed = config.seed
        self.key = jax.random.key(config.seed)
        self.recent: deque[EpisodeResult] = deque(maxlen=RECENT_EPISODES)
        self.summaries: list[Summary] = []
        self.pending: list[Record] = []  # fetched, not logged yet
        self.history: deque[Record] = deque(maxlen=RECENT_CALLS)  # logged
        self._ended: list[EpisodeResult] = []  # in this process, not in `recent` yet
        self._fresh: list[Transition] = []  # in this process, not in the log yet
        self._saved, self._offline_sha256 = saved, offline_sha256
        notes = saved.notes if saved else {}
        sizes = notes.get("sizes", {}) if resuming else None
        self._log = processes.by_first(lambda: self._open(policy, sizes, lock))
        self.store = ResumeStore(workdir)
        self._replay_log = ReplayLog(
            workdir / REPLAY,
            # several devices round up what each holds, and share whole vector steps
            config.replay.capacity + 2 * config.num_envs,
            notes.get("segments"),
        )

    def _open(self, policy: Policy, sizes: dict | None, lock: FolderLock | None):
        opened = MetricsLog(self.workdir, self.config, sizes, lock)
        if not (self.workdir / POLICY).exists():
            save_policy(self.workdir / POLICY, policy)  # the folder stands alone
        return opened

    def begin(self) -> None:
        """Starts the first episodes."""
        self.collector = Collector(
            self.env,
            self.seed,
            self.config.reward_offset,
            first_env=processes.index() * self.env.num_envs,
            num_envs=self.config.num_envs,
            end_at_success=self.config.end_at_success,
            bootstrap_at_time_limit=self.config.bootstrap_at_time_limit,
        )

    def close(self) -> None:
        """Ends the environments' threads and closes the files."""
        if self._log is not None:
            self._log.close()
        self.env.close()

    def act_inputs(self) -> tuple:
        """What acting needs: observations, key, episode seeds, chunk numbers."""
        books = self.collector.books
        key = jax.random.fold_in(self.key, ACT_KEY)
        return self.collector.obs, key, books.seed, books.chunks

    def update_key(self, env_steps: int) -> jax.Array:
        """The key of the training call at `env_steps`."""
        key = jax.random.fold_in(self.key, UPDATE_KEY)
        return jax.random.fold_in(key, env_steps)

    def finish_step(self) -> Transition:
        """Waits for the environments; returns this process's new transitions."""
        fresh, ended = self.collector.step_wait()
        self._fresh.append(fresh)
        self._ended += ended
        return fresh

    def share_episodes(self) -> None:
        """Tells all processes of the episodes that ended in each."""
        for results in processes.gather_objects([list(r) for r in self._ended]):
            self.recent.extend(EpisodeResult(*r) for r in results)
        self._ended = []

    def success_rate(self) -> float | None:
        """Of the recent episodes; None before the first."""
        episodes = [*self.recent, *self._ended]
        if not episodes:
            return None
        return sum(r.success_chunk for r in episodes) / len(episodes)

    def refuse_divergence(self) -> None:
        """Raises UserError where a scalar of the training calls is not finite."""
        diagnosis = diagnose([*self.history, *self.pending])
        if diagnosis is not None:
            raise UserError(f"training diverged: {diagnosis}; {ADVICE}")

    def record_evaluation(
        self, env_steps: int, name: str, results: Sequence[EpisodeResult]
    ) -> None:
        """Writes an evaluation to eval.csv and TensorBoard, and keeps its averages."""
        summary = summarise(env_steps, name, results)
        self.summaries.append(summary)
        if self._log is None:
            return
        self._log.episodes(env_steps, name, results)
        prefix = "eval" if name.startswith(f"{self.config.method}/") else f"eval_{name}"
        self._log.scalars(
            env_steps,
            {
                f"{prefix}/success_rate": summary.success_chunk / summary.episodes,
                f"{prefix}/success_any_rate": summary.success_any / summary.episodes,
                f"{prefix}/reward": summary.mean_return,
                f"{prefix}/timesteps": summary.mean_length,
                f"{prefix}/faults": summary.faults,
            },
        )

    def log_interval(self, env_steps: int, counts: dict[str, float]) -> None:
        """Writes the means of the pending scalars, recent episodes and `counts`."""
        self.refuse_divergence()
        fetched = [values for _, values in self.pending]
        self.history.extend(self.pending)
        self.pending = []
        self.share_episodes()
        names = fetched[0].keys() if fetched else ()
        values = {n: float(np.mean([f[n] for f in fetched])) for n in names}
        if self.recent:
            values |= {
                "train/success_rate": self.success_rate(),
                "train/ep_rew_mean": np.mean([r.episode_return for r in self.recent]),
                "train/ep_len_mean": np.mean([r.length for r in self.recent]),
                "train/faults": sum(r.fault for r in self.recent),
            }
        if self._log is not None:
            self._log.scalars(env_steps, values | counts)

    def save(self, env_steps: int, learner: LearnerState, to_evaluate: bool) -> None:
        """Saves all that this seed needs to go on from here, bit for bit.

        Raises:
          UserError: a value is not finite.
          OSError: the disk does not take it; only in the process that writes.
        """
        self.refuse_divergence()
        tree = jax.device_get(checkpoint_tree(learner, env_steps))
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)):
            raise UserError(
                f"training diverged: the critics hold values that are not finite at "
                f"{env_steps:,} control steps; {ADVICE}"
            )
        self.share_episodes()
        self._hand_over_fresh()
        envs = processes.concatenate(collector_tree(self.collector))
        if self._log is None:
            return
        notes = {
            "sizes": self._log.sizes(),
            "segments": self._replay_log.write(),
            "pending": [
                [n, {k: float(v) for k, v in m.items()}] for n, m in self.pending
            ],
            "recent": [list(result) for result in self.recent],
            "summaries": [list(summary) for summary in self.summaries],
            "to_evaluate": to_evaluate,
            "offline_sha256": self._offline_sha256,
        }
        self.store.save(env_steps, tree, envs, notes)

    def _hand_over_fresh(self) -> None:
        """Gives the new transitions of all processes to the log, in order."""
        if not self._fresh:
            return
        steps = Transition(*map(np.stack, zip(*self._fresh, strict=True)))
        steps = processes.concatenate(steps, axis=1)  # [vector steps, all envs, ...]
        rows = [leaf.reshape(-1, *leaf.shape[2:]) for leaf in steps]
        self._replay_log.add(Transition(*rows))
        self._fresh = []

    def restore(self, template: Any) -> LearnerState:
        """Puts back what `save` saved and returns the learner.

        Args:
          template: the learner's tree as shapes.
        """
        saved = self._saved
        tree = self.store.restore_learner(saved.env_steps, checkpoint_tree(template, 0))
        self.store.restore_collector(saved.env_steps, self.collector)
        for env_steps, values in saved.notes["pending"]:
            values = {k: np.float32(v) for k, v in values.items()}
            self.pending.append((env_steps, values))
        self.recent.extend(EpisodeResult(*r) for r in saved.notes["recent"])
        self.summaries = [Summary(*s) for s in saved.notes["summaries"]]
        return tree["learner"]

    def forget_after(self, env_steps: int) -> None:
        """Deletes what was saved later: the run goes on from `env_steps`."""
        if self._log is not None:
            self.store.forget_after(env_steps)

    @property
    def stored_transitions(self) -> int:
        """Transitions in the log so far, of all processes."""
        return self._replay_log.total

    def stored_rings(
        self, num_shards: int, capacity: int, obs_dim: int, flat_action_dim: int
    ) -> Transition:
        """Returns the replay buffers' content, `[num_shards, capacity, ...]`."""
        return self._replay_log.read(
            (num_shards, capacity), obs_dim, flat_action_dim, self.config.num_envs
        )


def seed_configs(config: ConfigDict) -> list[ConfigDict]:
    """Returns the configuration of each of a run's seeds, as if it ran alone."""
    configs = []
    for offset in range(config.num_seeds):
        alone = ConfigDict(config.to_dict())
        alone.seed, alone.num_seeds = config.seed + offset, 1
        configs.append(alone.lock())
    return configs


def seed_folders(workdir: Path, config: ConfigDict) -> list[Path]:
    """Returns each seed's folder: `workdir` itself where there is one seed."""
    if config.num_seeds == 1:
        return [workdir]
    return [workdir / f"seed{config.seed + i}" for i in range(config.num_seeds)]
