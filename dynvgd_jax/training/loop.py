"""The training loop: act, step, learn, evaluate, write down."""

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from dynvgd_jax.agent import POLICY, build_method, load_learner
from dynvgd_jax.core.config_check import own_envs
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.types import EpisodeResult, Transition, VectorEnv
from dynvgd_jax.demos.offline import Offline, load_offline
from dynvgd_jax.diffusion.policy import Policy, load_policy
from dynvgd_jax.envs.evaluate import evaluate, evaluation_seeds
from dynvgd_jax.envs.rollout import ActFn
from dynvgd_jax.replay.memory import DeviceReplay, HostReplay, reserve_replay
from dynvgd_jax.replay.ring import transition_nbytes
from dynvgd_jax.runs.clocks import Clocks, Due
from dynvgd_jax.runs.lock import FolderLock
from dynvgd_jax.runs.report import (
    Progress,
    Summary,
    print_results,
    print_seed_means,
)
from dynvgd_jax.training import processes
from dynvgd_jax.training.make_env import env_for_policy
from dynvgd_jax.training.placement import place
from dynvgd_jax.training.programs import compile_programs
from dynvgd_jax.training.resume import Saved, find_saved, lock_runs
from dynvgd_jax.training.seed_run import (
    ADVICE,
    INIT_KEY,
    SeedRun,
    seed_configs,
    seed_folders,
)

log = logging.getLogger(__name__)

# A checkpoint that the disk refused is tried again after this long, at the earliest.
RETRY_CHECKPOINT_S = 60.0
# Training calls whose scalars may wait for the log; a checkpoint holds those.
MOST_PENDING = 1_000

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
) -> dict[int, list[Summary]]:
    """Runs one training job and returns each seed's evaluations, in order.

    Args:
      config: as `configs/base.py` describes, checked.
      workdir: new folder for everything that the run writes; with several seeds each
        has a folder of its own inside.
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
    folders = seed_folders(Path(workdir), config)
    configs = seed_configs(config)
    source, saved, locks = config.base_policy, None, []
    with contextlib.ExitStack() as held:
        if resume:
            locks = processes.by_first(lambda: lock_runs(Path(workdir), folders)) or []
            for lock in locks:
                held.enter_context(lock)
            saved = find_saved(folders, configs)
            processes.require_equal("checkpoint", [s and s.env_steps for s in saved])
            own = folders[0] / POLICY
            source = str(own) if own.exists() else source
        policy = load_policy(
            f"builtin:{config.task}" if source == "builtin" else source
        )
        if make_env is None:
            make_env = functools.partial(env_for_policy, config, policy)
        run = Run(
            config,
            folders,
            configs,
            policy,
            make_env,
            saved=saved,
            resuming=resume,
            locks=locks,
            stop=stop,
        )
        try:
            finished = run.run()
        finally:
            run.close()
    summaries = {seed.seed: seed.summaries for seed in run.seeds}
    if finished and processes.is_first():
        if len(summaries) == 1:
            print_results(run.seeds[0].summaries)
        else:
            print_seed_means(summaries)
    return summaries


class Run:
    """One run's learner, evaluation and clocks; `seeds` has what each seed owns.

    With several processes every one holds a `Run` of the same state, but for its own
    environments, and calls its methods at the same time.
    """

    def __init__(
        self,
        config: ConfigDict,
        folders: Sequence[Path],
        configs: Sequence[ConfigDict],
        policy: Policy,
        make_env: MakeEnv,
        *,
        saved: Sequence[Saved | None] | None = None,
        resuming: bool = False,
        locks: Sequence[FolderLock] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ):
        saved = saved or [None] * config.num_seeds
        self.config, self.policy, self.stop = config, policy, stop
        self.method = build_method(config, policy)
        self.placement = place(config.num_seeds)
        self.programs = compile_programs(config, policy, self.placement)
        self.saved = saved[0]
        self.learner = None  # of all seeds; until it is needed
        if config.initial_critics and self.saved is None:
            learner = load_learner(config.initial_critics, self.method)
            self.learner = self.programs.put([learner] * config.num_seeds)
        self.offline = self._load_offline()
        num_envs = own_envs(config.num_envs, processes.count())
        envs = [make_env(num_envs) for _ in folders]
        env = envs[0]
        policy.require_fit(env.obs_dim, env.action_dim, env.chunk_len)
        eval_envs = min(config.eval.num_envs, config.eval.episodes)
        self.eval_env = make_env(-(-eval_envs // processes.count()))
        self.seeds = [
            SeedRun(
                configs[i],
                folders[i],
                policy,
                envs[i],
                saved=saved[i],
                lock=locks[i] if locks else None,
                resuming=resuming,
                offline_sha256=self.offline and self.offline.sha256,
            )
            for i in range(config.num_seeds)
        ]
        self.progress = Progress(config.total_env_steps, quiet=not processes.is_first())
        self.progress.__enter__()
        self.to_evaluate = False  # the steered policy, before the next vector step
        self.retry_at: float | None = None  # when to repeat a checkpoint that failed
        self.clocks = Clocks(ACTIVITIES)
        self.eval_seeds = evaluation_seeds(config.eval.seed, config.eval.episodes)
        self.eval_key = jax.random.key(config.eval.seed)
        self.env_steps = 0  # of each seed
        self.vector_step = config.num_envs * env.chunk_len
        self.pending = []  # (env_steps, scalars on the devices)

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
        for seed in self.seeds:
            seed.close()
        self.eval_env.close()

    def _begin(self) -> None:
        """Makes the state of a new run, or puts the saved one back; saves the former.

        From here on the run can be resumed, whatever happens.
        """
        if self.learner is None and self.saved is None:
            init = jax.jit(self.method.init)
            keys = [jax.random.fold_in(seed.key, INIT_KEY) for seed in self.seeds]
            self.learner = self.programs.put([init(key) for key in keys])
        for seed in self.seeds:
            seed.begin()
        if self.config.method != "base":
            self.replay = self._allocate_replay()
        if self.saved is not None:
            self._restore()
        else:
            for seed in self.seeds:
                seed.forget_after(-1)
            self._checkpoint(required=True)

    def _evaluate_base(self) -> None:
        """Evaluates the unguided policy once per start noise, before any training."""
        if self.env_steps > 0:
            return
        done = {summary.policy for summary in self.seeds[0].summaries}
        for kind in self.config.eval.noises:
            name = f"base/{kind}"
            if name in done:
                continue

            def act(obs, seeds, chunk_index, kind=kind):
                return self.programs.decode(
                    kind, obs, self.eval_key, seeds, chunk_index
                )

            results = self._evaluate(name, act)
            for seed in self.seeds:
                seed.record_evaluation(self.env_steps, name, results)
            self._checkpoint()

    def _evaluate_steered(self) -> None:
        """Evaluates each seed's policy with acting's own start noise."""
        name = f"{self.config.method}/{self.config.acting_noise}"
        found = []
        for place_of_seed, seed in enumerate(self.seeds):
            learner = self.placement.take(self.learner, place_of_seed)

            def act(obs, seeds, chunk_index, learner=learner):
                inputs = (obs, self.eval_key, seeds, chunk_index, self.env_steps)
                return self.programs.act_one(learner, *inputs)[0]

            label = f"seed {seed.seed}, " if len(self.seeds) > 1 else ""
            found.append(self._evaluate(label + name, act))
        for seed, results in zip(self.seeds, found, strict=True):
            seed.record_evaluation(self.env_steps, name, results)
        self.to_evaluate = False
        if processes.any_of(self._has_checkpoint()):
            self._checkpoint()  # so that a resumed run does not repeat it

    def _has_checkpoint(self) -> bool:
        stores = [seed.store for seed in self.seeds]
        return processes.is_first() and all(
            self.env_steps in store.candidates() for store in stores
        )

    def _learn(self) -> None:
        """Trains until the budget of control steps is spent."""
        config = self.config
        due_log = Due(config.log.every_env_steps, self.env_steps)
        due_evaluation = Due(config.eval.every_env_steps, self.env_steps)
        due_checkpoint = Due(config.checkpoint.every_env_steps, self.env_steps)
        self.clocks = Clocks(ACTIVITIES, first_step=self.env_steps)
        learning = self._num_updates() > 0
        while True:
            if self.to_evaluate:
                self._evaluate_steered()
            if self.env_steps >= config.total_env_steps:
                return
            if processes.any_of(self.stop()):
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
                success=self._success_rate(),
                stage="learning" if learning else "first rollouts",
            )
            last = self.env_steps >= config.total_env_steps
            # The first training call is logged at once: a slow run shows early
            # whether its numbers make sense.
            waiting = len(self.pending) + len(self.seeds[0].pending)
            full = waiting >= MOST_PENDING
            if due_log(self.env_steps) or first_call or last or full:
                self._log()
            self.to_evaluate = (due_evaluation(self.env_steps) and learning) or last
            retry = self.retry_at is not None and time.monotonic() >= self.retry_at
            retry = processes.any_of(retry)
            # Before the evaluation, which may take long.
            if due_checkpoint(self.env_steps) or first_call or last or retry:
                self._checkpoint()

    def _explore(self) -> None:
        """One vector step of the first rollouts: the unguided policy, no training."""
        with self.clocks.measure("act"):
            chunks = [
                self._finite(self.programs.explore(*seed.act_inputs()))
                for seed in self.seeds
            ]
        self._start_rollouts(chunks)
        self.replay.store(self._finish_rollouts())

    def _act_and_update(self) -> None:
        """One vector step of the steered policy and one training call.

        As published the training call follows the rollouts and may draw their
        transitions. With `overlap` it runs beside them and may not.
        """
        with self.clocks.measure("act"):
            inputs = zip(*(seed.act_inputs() for seed in self.seeds), strict=True)
            chunks, guide_metrics = self.programs.act(
                self.learner, *inputs, self.env_steps
            )
            chunks = self.placement.collect(self._finite(chunks))
        self._start_rollouts(chunks)
        if self.config.overlap:
            train_metrics = self._update(self.env_steps + self.vector_step)
            self.replay.store(self._finish_rollouts())
        else:
            self.replay.store(self._finish_rollouts())
            with self.clocks.measure("update"):
                train_metrics = self._update(self.env_steps)
                jax.block_until_ready(self.learner)
        self.pending.append((self.env_steps, guide_metrics | train_metrics))

    def _update(self, env_steps: int) -> dict[str, jax.Array]:
        """Starts the training call that belongs to `env_steps` on the devices."""
        keys = [seed.update_key(env_steps) for seed in self.seeds]
        data = self.replay.training_input(keys)
        self.learner, metrics = self.programs.update(
            self.learner, data, keys, env_steps
        )
        return metrics

    def _start_rollouts(self, chunks: Sequence[np.ndarray]) -> None:
        for seed, own in zip(self.seeds, chunks, strict=True):
            seed.collector.step_async(own)

    def _finish_rollouts(self) -> list[Transition]:
        with self.clocks.measure("rollout"):
            fresh = [seed.finish_step() for seed in self.seeds]
        self.env_steps += self.vector_step
        return fresh

    def _checkpoint(self, required: bool = False) -> None:
        """Saves everything that the run needs to go on from here, bit for bit.

        Where the disk does not take it, the run goes on with a warning and tries again
        later; with `required`, UserError.
        """
        self._fetch()
        try:
            for place_of_seed, seed in enumerate(self.seeds):
                learner = self.placement.take(self.learner, place_of_seed)
                seed.save(self.env_steps, learner, self.to_evaluate)
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

    def _restore(self) -> None:
        """Puts back what `_checkpoint` saved."""
        template = jax.eval_shape(self.method.init, jax.random.key(0))
        self.learner = self.programs.put([s.restore(template) for s in self.seeds])
        self.env_steps = self.saved.env_steps
        if self.config.method != "base":
            self._refill_replay()
        self.to_evaluate = self.saved.notes["to_evaluate"]
        for seed in self.seeds:
            seed.forget_after(self.env_steps)
        self.progress.restart_rate(self.env_steps)
        self.progress.message(f"resumed at {self.env_steps:,} control steps")

    def _refill_replay(self) -> None:
        stored = self.seeds[0].stored_transitions
        if not stored:
            return
        replay, policy = self.replay, self.policy
        shape = (replay.num_shards, replay.shard_capacity)
        flat_dim = policy.chunk_len * policy.action_dim
        rings = [
            jax.tree.map(
                lambda leaf: leaf[replay.own_shards],
                seed.stored_rings(*shape, policy.obs_dim, flat_dim),
            )
            for seed in self.seeds
        ]
        replay.refill(rings, stored // replay.num_shards)

    def _load_offline(self) -> Offline | None:
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
        if self.saved is not None:
            found = offline and offline.sha256
            expected = self.saved.notes["offline_sha256"]
            if found != expected:
                raise UserError(
                    f"config.replay.offline_dataset: found transitions of SHA-256 "
                    f"{found}, expected {expected}: the run began with other offline "
                    "transitions"
                )
        return offline

    def _allocate_replay(self) -> DeviceReplay | HostReplay:
        """Reserves what the run can fill, now rather than hours later."""
        steps = -(-self.config.total_env_steps // self.vector_step)
        capacity = min(self.config.replay.capacity, steps * self.config.num_envs)
        capacity = max(capacity, self.config.num_envs)
        flat_dim = self.policy.chunk_len * self.policy.action_dim
        size = capacity * transition_nbytes(self.policy.obs_dim, flat_dim)
        times = f"{len(self.seeds)} x " if len(self.seeds) > 1 else ""
        self.progress.message(
            f"replay buffer: {times}{capacity:,} transitions, {size / 1e6:,.0f} MB of "
            f"{self.config.replay.memory} memory"
        )
        if self.offline is not None:
            count = len(self.offline.transitions.reward)
            self.progress.message(f"offline transitions: {count:,}")
        offline = self.offline and self.offline.transitions
        sizes = (capacity, self.policy.obs_dim, flat_dim, offline)
        return reserve_replay(self.config, self.placement, *sizes)

    def _evaluate(self, label: str, act: ActFn) -> list[EpisodeResult]:
        """Returns the evaluation's episodes; every process plays its share."""
        own = self.eval_seeds[processes.index() :: processes.count()]
        done: list[EpisodeResult] = []

        def act_unless_stopped(obs, seeds, chunk_index):
            # Several processes are at different chunks; they stop after it.
            if processes.count() == 1 and self.stop():
                raise _StoppedError
            return self._finite(act(obs, seeds, chunk_index))

        def progress(result):
            done.append(result)
            self.progress.update(
                self.env_steps,
                success=sum(r.success_chunk for r in done) / len(done),
                stage=f"evaluating {label} {len(done)}/{len(own)}",
            )

        with self.clocks.measure("eval"):
            results = evaluate(
                self.eval_env,
                act_unless_stopped,
                own,
                reward_offset=self.config.reward_offset,
                progress=progress,
            )
            parts = processes.gather_objects([list(r) for r in results])
        return [
            EpisodeResult(*parts[i % len(parts)][i // len(parts)])
            for i in range(len(self.eval_seeds))
        ]

    def _finite(self, chunks: jax.Array) -> np.ndarray:
        """Returns action chunks on the host; UserError where one is not finite."""
        chunks = np.asarray(chunks)
        if not np.isfinite(chunks).all():
            self._keep(jax.device_get(self.pending))
            for seed in self.seeds:
                seed.refuse_divergence()
            raise UserError(
                f"the actions are not finite at {self.env_steps:,} control steps, "
                f"though the last training calls were: the policy's weights, its "
                f"normalization.npz or the critics are; {ADVICE}"
            )
        return chunks

    def _fetch(self) -> None:
        """Fetches all scalars at once and gives each seed its own.

        Those of acting are means over the processes, which act for others.
        """
        fetched = jax.device_get(self.pending)
        if processes.count() > 1:
            acting = [
                {k: v.tolist() for k, v in scalars.items() if k.startswith("guide/")}
                for _, scalars in fetched
            ]
            everyones = zip(*processes.gather_objects(acting), strict=True)
            fetched = [
                (env_steps, scalars | _mean_of_each(same))
                for (env_steps, scalars), same in zip(fetched, everyones, strict=True)
            ]
        self._keep(fetched)

    def _keep(self, fetched: list) -> None:
        for env_steps, scalars in fetched:
            values = {n: self.placement.collect(v) for n, v in scalars.items()}
            for i, seed in enumerate(self.seeds):
                seed.pending.append((env_steps, {n: v[i] for n, v in values.items()}))
        self.pending = []

    def _log(self) -> None:
        """Writes the interval's scalars."""
        self._fetch()
        counts = {
            "train/num_updates": self._num_updates(),
            "train/updates_per_control_step": self.config.utd / self.vector_step,
        }
        counts |= self.clocks.report(self.env_steps)
        for seed in self.seeds:
            seed.log_interval(self.env_steps, counts)

    def _num_updates(self) -> int:
        return int(np.ravel(jax.device_get(self.learner.num_updates))[0])

    def _success_rate(self) -> float | None:
        rates = [seed.success_rate() for seed in self.seeds]
        return None if None in rates else sum(rates) / len(rates)


def _mean_of_each(everyones: Sequence[dict]) -> dict[str, np.ndarray]:
    """The mean over processes of each scalar, one value or one a seed."""
    names = everyones[0].keys()
    return {
        n: np.mean([own[n] for own in everyones], axis=0, dtype=np.float32)
        for n in names
    }
