"""The training loop: act, step, learn, evaluate, write down."""

import contextlib
import functools
import logging
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from dynvgd_jax.agent import POLICY, build_method, checkpoint_tree, load_learner
from dynvgd_jax.demos.offline import Offline, load_offline
from dynvgd_jax.diffusion.policy import Policy, load_policy, save_policy
from dynvgd_jax.divergence import Record, diagnose
from dynvgd_jax.errors import UserError
from dynvgd_jax.evaluate import evaluate, evaluation_seeds
from dynvgd_jax.programs import compile_programs
from dynvgd_jax.resume import (
    REPLAY,
    ResumeStore,
    Saved,
    collector_tree,
    find_saved,
    lock_run,
)
from dynvgd_jax.rollout import ActFn, Collector
from dynvgd_jax.runs.clocks import Clocks, Due
from dynvgd_jax.runs.lock import FolderLock
from dynvgd_jax.runs.metrics import MetricsLog
from dynvgd_jax.runs.replay_log import ReplayLog
from dynvgd_jax.runs.report import Progress, Summary, print_results, summarise
from dynvgd_jax.steering import replay as replay_lib
from dynvgd_jax.steering.replay import ReplayState
from dynvgd_jax.types import EpisodeResult, Transition, VectorEnv

log = logging.getLogger(__name__)

# A checkpoint that the disk refused is tried again after this long, at the earliest.
RETRY_CHECKPOINT_S = 60.0
# Training calls whose scalars a diagnosis of divergence looks back on.
RECENT_CALLS = 200
# Training calls whose scalars may wait for the log; a checkpoint holds those.
MOST_PENDING = 1_000
# Finished training episodes over which success and return are averaged.
RECENT_EPISODES = 100

# Uses of the run's key; a key is drawn from one of these and a counter.
INIT_KEY, ACT_KEY, UPDATE_KEY = range(3)

_ADVICE = "the last checkpoint is kept; lower learning_rate or guidance.scale"

ACTIVITIES = ("rollout", "act", "update", "eval")

MakeEnv = Callable[[int], VectorEnv]


class _StoppedError(Exception):
    """The run was asked to stop; its state is that between two vector steps."""


def train(
    config: ConfigDict,
    workdir: str | Path,
    make_env: MakeEnv | None = None,
    *,
    resume: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> list[Summary]:
    """Runs one training job and returns its evaluations in order.

    Args:
      config: as `configs/base.py` describes, checked.
      workdir: new folder for everything that the run writes.
      resume: go on with the run in `workdir` from its newest sound checkpoint, or from
        its beginning where it wrote none.
      make_env: number of environments -> environments, where they are not robosuite's.
      stop: asked often; once it says yes the run saves a checkpoint and ends. An
        evaluation under way is thrown away, and repeated by a resumed run.

    Raises:
      UserError: the policy does not fit the task, the folder is taken, the disk does
        not take the first or the last checkpoint, or a value is no longer finite; with
        `resume`, there is no checkpoint, or the configuration would change what the
        run means.
      StuckError: an environment hangs.
    """
    workdir = Path(workdir)
    with lock_run(workdir) if resume else contextlib.nullcontext() as lock:
        source, saved = config.base_policy, None
        if resume:
            saved = find_saved(workdir, config)
            source = str(workdir / POLICY) if (workdir / POLICY).exists() else source
        policy = load_policy(
            f"builtin:{config.task}" if source == "builtin" else source
        )
        if make_env is None:
            make_env = functools.partial(_robosuite_env, config, policy)
        run = Run(config, workdir, policy, make_env, saved, lock, stop)
        try:
            finished = run.run()
        finally:
            run.close()
    if finished:
        print_results(run.summaries)
    return run.summaries


class Run:
    """One run's environments, learner, and files."""

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        policy: Policy,
        make_env: MakeEnv,
        saved: Saved | None,
        lock: FolderLock | None,
        stop: Callable[[], bool],
    ):
        self.config, self.policy, self.stop = config, policy, stop
        self.method = build_method(config, policy)
        self.programs = compile_programs(config, policy, self.method)
        self.learner = None  # until it is needed
        if config.initial_critics and saved is None:
            self.learner = load_learner(config.initial_critics, self.method)
        self.offline = self._load_offline(saved)
        self.env = make_env(config.num_envs)
        policy.require_fit(self.env.obs_dim, self.env.action_dim, self.env.chunk_len)
        self.eval_env = make_env(min(config.eval.num_envs, config.eval.episodes))
        notes = saved.notes if saved else {}
        goes_on = lock is not None
        sizes = notes.get("sizes", {}) if goes_on else None
        self.log = MetricsLog(workdir, config, sizes, lock)
        if not (workdir / POLICY).exists():
            save_policy(workdir / POLICY, policy)  # the run's folder stands alone
        self.resume_store = ResumeStore(workdir)
        self.replay_log = ReplayLog(
            workdir / REPLAY,
            # several devices round up what each holds, and share whole vector steps
            config.replay.capacity + 2 * config.num_envs,
            notes.get("segments"),
        )
        self.saved = saved
        self.progress = Progress(config.total_env_steps)
        self.progress.__enter__()
        self.summaries: list[Summary] = []
        self.to_evaluate = False  # the steered policy, before the next vector step
        self.retry_at: float | None = None  # when to repeat a checkpoint that failed
        self.clocks = Clocks(ACTIVITIES)
        self.eval_seeds = evaluation_seeds(config.eval.seed, config.eval.episodes)
        self.key = jax.random.key(config.seed)
        self.eval_key = jax.random.key(config.eval.seed)
        self.env_steps = 0
        self.vector_step = config.num_envs * self.env.chunk_len
        self.recent: deque[EpisodeResult] = deque(maxlen=RECENT_EPISODES)
        self.pending: list[Record] = []  # not logged yet, perhaps still on the device
        self.history: deque[Record] = deque(maxlen=RECENT_CALLS)  # logged

    def run(self) -> bool:
        """Does what is left to do; returns False where the run was asked to stop."""
        try:
            self._begin()
            self._evaluate_base()
            if self.config.method != "base":
                self._learn()
            self._checkpoint(required=True)
            return True
        except _StoppedError:
            self._checkpoint(required=True)
            self.progress.message(
                f"stopped at {self.env_steps:,} control steps, everything is saved; "
                "the same command with --resume goes on"
            )
            return False

    def close(self) -> None:
        """Ends the environments' threads and closes the files."""
        self.progress.__exit__(None, None, None)
        self.log.close()
        self.env.close()
        self.eval_env.close()

    def _begin(self) -> None:
        """Makes the state of a new run, or puts the saved one back; saves the former.

        From here on the run can be resumed, whatever happens.
        """
        config = self.config
        if self.learner is None:
            init_key = jax.random.fold_in(self.key, INIT_KEY)
            self.learner = jax.jit(self.method.init)(init_key)
        self.collector = Collector(
            self.env,
            config.seed,
            config.reward_offset,
            config.end_at_success,
            config.bootstrap_at_time_limit,
        )
        if config.method != "base":
            self.replay = self._allocate_replay()
        if self.saved is not None:
            self._restore(self.saved)
        else:
            self.resume_store.forget_after(-1)
            self._checkpoint(required=True)

    def _evaluate_base(self) -> None:
        """Evaluates the unguided policy once per start noise, before any training."""
        if self.env_steps > 0:
            return
        done = {summary.policy for summary in self.summaries}
        for kind in self.config.eval.noises:
            if f"base/{kind}" in done:
                continue

            def act(obs, seeds, chunk_index, kind=kind):
                arguments = (obs, self.eval_key, seeds, chunk_index)
                return self.programs.decode(kind, self.policy.params, *arguments)

            self._evaluate(f"base/{kind}", act)
            self._checkpoint()

    def _evaluate_steered(self) -> None:
        """Evaluates the steered policy with acting's own start noise."""

        def act(obs, seeds, chunk_index):
            arguments = (obs, self.eval_key, seeds, chunk_index, self.env_steps)
            return self.programs.act(self.learner, self.policy.params, *arguments)[0]

        self._evaluate(f"{self.config.method}/{self.config.acting_noise}", act)
        self.to_evaluate = False
        if self.env_steps in self.resume_store.candidates():
            self._checkpoint()  # so that a resumed run does not repeat it

    def _learn(self) -> None:
        """Trains until the budget of control steps is spent."""
        config = self.config
        due_log = Due(config.log.every_env_steps, self.env_steps)
        due_evaluation = Due(config.eval.every_env_steps, self.env_steps)
        due_checkpoint = Due(config.checkpoint.every_env_steps, self.env_steps)
        self.clocks = Clocks(ACTIVITIES, first_step=self.env_steps)
        learning = int(self.learner.num_updates) > 0
        while True:
            if self.to_evaluate:
                self._evaluate_steered()
            if self.env_steps >= config.total_env_steps:
                return
            if self.stop():
                raise _StoppedError
            first_call = False
            if self.env_steps < config.first_rollout_env_steps:
                self._explore()
            else:
                first_call, learning = not learning, True
                if first_call:
                    self.progress.restart_rate()
                self._act_and_update()
            self.progress.update(
                self.env_steps,
                success=_success(self.recent),
                stage="learning" if learning else "first rollouts",
            )
            last = self.env_steps >= config.total_env_steps
            # The first training call is logged at once: a slow run shows early
            # whether its numbers make sense.
            full = len(self.pending) >= MOST_PENDING
            if due_log(self.env_steps) or first_call or last or full:
                self._log()
            self.to_evaluate = (due_evaluation(self.env_steps) and learning) or last
            retry = self.retry_at is not None and time.monotonic() >= self.retry_at
            # Before the evaluation, which may take long.
            if due_checkpoint(self.env_steps) or first_call or last or retry:
                self._checkpoint()

    def _explore(self) -> None:
        """One vector step of the first rollouts: the unguided policy, no training."""
        with self.clocks.measure("act"):
            chunks = self._finite(
                self.programs.explore(self.policy.params, *self._act_inputs())
            )
        self.replay = self.programs.store(self.replay, self._rollout(chunks))

    def _act_and_update(self) -> None:
        """One vector step of the steered policy and one training call."""
        with self.clocks.measure("act"):
            chunks, guide_metrics = self.programs.act(
                self.learner, self.policy.params, *self._act_inputs(), self.env_steps
            )
            chunks = self._finite(chunks)
        fresh = self._rollout(chunks)
        with self.clocks.measure("update"):
            key = jax.random.fold_in(self.key, UPDATE_KEY)
            self.learner, self.replay, metrics = self.programs.update(
                self.learner,
                self.replay,
                self.policy.params,
                fresh,
                jax.random.fold_in(key, self.env_steps),
                self.env_steps,
            )
            jax.block_until_ready(self.learner)
        self.pending.append((self.env_steps, guide_metrics | metrics))

    def _checkpoint(self, required: bool = False) -> None:
        """Saves everything that the run needs to go on from here, bit for bit.

        Where the disk does not take it, the run goes on with a warning and tries again
        later; with `required`, UserError.
        """
        try:
            self._save()
            self.retry_at = None
        except OSError as error:
            text = f"no checkpoint at {self.env_steps:,} control steps: {error}"
            if required:
                raise UserError(
                    f"{text}; what was saved before is kept; free space or make the "
                    "folder writable, then go on with --resume"
                ) from error
            log.warning("%s; the run goes on and tries again", text)
            self.retry_at = time.monotonic() + RETRY_CHECKPOINT_S

    def _save(self) -> None:
        self.pending = jax.device_get(self.pending)
        self._refuse_divergence()
        tree = jax.device_get(checkpoint_tree(self.learner, self.env_steps))
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)):
            raise UserError(
                f"training diverged: the critics hold values that are not finite at "
                f"{self.env_steps:,} control steps; {_ADVICE}"
            )
        notes = {
            "sizes": self.log.sizes(),
            "segments": self.replay_log.write(),
            "pending": [
                [n, {k: float(v) for k, v in m.items()}] for n, m in self.pending
            ],
            "recent": [list(result) for result in self.recent],
            "summaries": [list(summary) for summary in self.summaries],
            "to_evaluate": self.to_evaluate,
            "offline_sha256": self.offline and self.offline.sha256,
        }
        envs = collector_tree(self.collector)
        self.resume_store.save(self.env_steps, tree, envs, notes)

    def _restore(self, saved: Saved) -> None:
        """Puts back what `checkpoint` saved."""
        tree = self.resume_store.restore_learner(
            saved.env_steps, checkpoint_tree(self.learner, 0)
        )
        self.learner, self.env_steps = tree["learner"], tree["env_steps"]
        self.resume_store.restore_collector(saved.env_steps, self.collector)
        if self.replay_log.segments:
            flat_dim = self.policy.chunk_len * self.policy.action_dim
            data = self.replay_log.read(
                self.replay.data.reward.shape,
                self.policy.obs_dim,
                flat_dim,
                step_rows=self.config.num_envs,
            )
            self.replay = replay_lib.refill(self.replay, data, self.replay_log.total)
        for env_steps, values in saved.notes["pending"]:
            values = {k: np.float32(v) for k, v in values.items()}
            self.pending.append((env_steps, values))
        self.recent.extend(EpisodeResult(*r) for r in saved.notes["recent"])
        self.summaries = [Summary(*s) for s in saved.notes["summaries"]]
        self.to_evaluate = saved.notes["to_evaluate"]
        self.resume_store.forget_after(saved.env_steps)
        self.progress.message(f"resumed at {self.env_steps:,} control steps")

    def _act_inputs(self) -> tuple:
        books = self.collector.books
        key = jax.random.fold_in(self.key, ACT_KEY)
        return self.collector.obs, key, books.seed, books.chunks

    def _rollout(self, chunks: np.ndarray) -> Transition:
        with self.clocks.measure("rollout"):
            fresh, ended = self.collector.step(chunks)
        self.replay_log.add(fresh)
        self.recent.extend(ended)
        self.env_steps += self.vector_step
        return fresh

    def _load_offline(self, saved: Saved | None) -> Offline | None:
        """Reads the offline transitions; a resumed run's must be those it began with.

        Raises:
          UserError: the file is unfit, or its transitions are others than they were.
        """
        config, policy = self.config, self.policy
        offline = None
        if config.replay.offline_dataset:
            offline = load_offline(
                config.replay.offline_dataset,
                policy.normalization,
                policy.chunk_len,
                config.reward_offset,
                config.task,
            )
        if saved is not None:
            found, expected = offline and offline.sha256, saved.notes["offline_sha256"]
            if found != expected:
                raise UserError(
                    f"config.replay.offline_dataset: found transitions of SHA-256 "
                    f"{found}, expected {expected}: the run began with other offline "
                    "transitions"
                )
        return offline

    def _allocate_replay(self) -> ReplayState:
        """Reserves what the run can fill, now rather than hours later."""
        steps = -(-self.config.total_env_steps // self.vector_step)
        capacity = min(self.config.replay.capacity, steps * self.config.num_envs)
        capacity = max(capacity, self.config.num_envs)
        flat_dim = self.policy.chunk_len * self.policy.action_dim
        size = capacity * replay_lib.transition_nbytes(self.policy.obs_dim, flat_dim)
        self.progress.message(
            f"replay buffer: {capacity:,} transitions, {size / 1e6:,.0f} MB"
        )
        if self.offline is not None:
            count = len(self.offline.transitions.reward)
            self.progress.message(f"offline transitions: {count:,}")
        offline = self.offline and self.offline.transitions
        init_replay = self.programs.init_replay
        return init_replay(capacity, self.policy.obs_dim, flat_dim, offline)

    def _evaluate(self, name: str, act: ActFn) -> None:
        done: list[EpisodeResult] = []

        def act_unless_stopped(obs, seeds, chunk_index):
            if self.stop():
                raise _StoppedError
            return self._finite(act(obs, seeds, chunk_index))

        def progress(result):
            done.append(result)
            self.progress.update(
                self.env_steps,
                success=_success(done),
                stage=f"evaluating {name} {len(done)}/{len(self.eval_seeds)}",
            )

        with self.clocks.measure("eval"):
            results = evaluate(
                self.eval_env,
                act_unless_stopped,
                self.eval_seeds,
                reward_offset=self.config.reward_offset,
                progress=progress,
            )
        summary = summarise(self.env_steps, name, results)
        self.summaries.append(summary)
        self.log.episodes(self.env_steps, name, results)
        prefix = "eval" if name.startswith(f"{self.config.method}/") else f"eval_{name}"
        self.log.scalars(
            self.env_steps,
            {
                f"{prefix}/success_rate": summary.success_chunk / summary.episodes,
                f"{prefix}/success_any_rate": summary.success_any / summary.episodes,
                f"{prefix}/reward": summary.mean_return,
                f"{prefix}/timesteps": summary.mean_length,
                f"{prefix}/faults": summary.faults,
            },
        )

    def _finite(self, chunks: jax.Array) -> np.ndarray:
        """Returns action chunks on the host; UserError where one is not finite."""
        chunks = np.asarray(chunks)
        if not np.isfinite(chunks).all():
            self.pending = jax.device_get(self.pending)
            self._refuse_divergence()
            raise UserError(
                f"the actions are not finite at {self.env_steps:,} control steps, "
                f"though the last training calls were: the policy's weights, its "
                f"normalization.npz or the critics are; {_ADVICE}"
            )
        return chunks

    def _refuse_divergence(self) -> None:
        """Raises UserError where a fetched scalar is not finite."""
        diagnosis = diagnose([*self.history, *self.pending])
        if diagnosis is not None:
            raise UserError(f"training diverged: {diagnosis}; {_ADVICE}")

    def _log(self) -> None:
        """Fetches the interval's metrics, all at once, and writes their means."""
        self.pending = jax.device_get(self.pending)
        self._refuse_divergence()
        fetched = [values for _, values in self.pending]
        self.history.extend(self.pending)
        self.pending = []
        names = fetched[0].keys() if fetched else ()
        values = {n: float(np.mean([f[n] for f in fetched])) for n in names}
        if self.recent:
            values |= {
                "train/success_rate": _success(self.recent),
                "train/ep_rew_mean": np.mean([r.episode_return for r in self.recent]),
                "train/ep_len_mean": np.mean([r.length for r in self.recent]),
                "train/faults": sum(r.fault for r in self.recent),
            }
        values |= {
            "train/num_updates": int(self.learner.num_updates),
            "train/updates_per_control_step": self.config.utd / self.vector_step,
        }
        values |= self.clocks.report(self.env_steps)
        self.log.scalars(self.env_steps, values)


def _success(episodes) -> float | None:
    if not episodes:
        return None
    return sum(r.success_chunk for r in episodes) / len(episodes)


def _robosuite_env(config: ConfigDict, policy: Policy, num_envs: int) -> VectorEnv:
    # Imported here: the learner also runs where no simulator is installed.
    from dynvgd_jax.envs.vector import RobosuiteVectorEnv

    policy.require_task(config.task)
    return RobosuiteVectorEnv(
        config.task,
        num_envs,
        policy.normalization,
        engine=config.env.engine,
        num_threads=config.env.num_threads,
    )
