"""The training loop: act, step, learn, evaluate, write down."""

import functools
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from dynvgd_jax import parallel
from dynvgd_jax.agent import CHECKPOINTS, POLICY, build_method, checkpoint_tree
from dynvgd_jax.diffusion.policy import Policy, load_policy, save_policy
from dynvgd_jax.diffusion.sampler import ddim_decode
from dynvgd_jax.diffusion.schedule import ddim_schedule
from dynvgd_jax.errors import UserError
from dynvgd_jax.evaluate import evaluate, evaluation_seeds
from dynvgd_jax.precision import with_precision
from dynvgd_jax.resume import REPLAY, ResumeStore, Saved, find_saved
from dynvgd_jax.rollout import ActFn, Collector
from dynvgd_jax.runs.checkpoint import CheckpointStore
from dynvgd_jax.runs.clocks import Clocks, Due
from dynvgd_jax.runs.metrics import MetricsLog
from dynvgd_jax.runs.replay_log import ReplayLog
from dynvgd_jax.runs.report import Progress, Summary, print_results, summarise
from dynvgd_jax.steering import replay as replay_lib
from dynvgd_jax.steering.replay import ReplayState
from dynvgd_jax.steering.vgd import start_noise
from dynvgd_jax.types import EpisodeResult, Transition, VectorEnv

# Finished training episodes over which success and return are averaged.
RECENT_EPISODES = 100

# Uses of the run's key; a key is drawn from one of these and a counter.
INIT_KEY, ACT_KEY, UPDATE_KEY = range(3)

ACTIVITIES = ("rollout", "act", "update", "eval")

MakeEnv = Callable[[int], VectorEnv]


class Programs(NamedTuple):
    """The compiled functions of a run."""

    decode: Callable  # (noise kind, params, obs, key, seeds, chunk_index) -> chunk
    act: Callable  # (learner, params, obs, key, seeds, chunk_index, env_steps)
    init_replay: Callable  # (capacity, obs_dim, flat_action_dim) -> replay
    store: Callable  # (replay, transitions) -> replay
    update: Callable  # see steering.vgd.make_vgd


def train(
    config: ConfigDict,
    workdir: str | Path,
    make_env: MakeEnv | None = None,
    *,
    resume: bool = False,
) -> list[Summary]:
    """Runs one training job and returns its evaluations in order.

    Args:
      config: as `configs/base.py` describes, checked.
      workdir: new folder for everything that the run writes.
      resume: go on with the run in `workdir` from its newest sound checkpoint.
      make_env: number of environments -> environments, where they are not robosuite's.

    Raises:
      UserError: the policy does not fit the task, the folder is taken, or the critics
        diverged to values that are not finite; with `resume`, there is no checkpoint,
        or the configuration would change what the run means.
    """
    workdir = Path(workdir)
    source, saved = config.base_policy, None
    if resume:
        source, saved = str(workdir / POLICY), find_saved(workdir, config)
    policy = load_policy(f"builtin:{config.task}" if source == "builtin" else source)
    if make_env is None:
        make_env = functools.partial(_robosuite_env, config, policy)
    run = Run(config, workdir, policy, make_env, saved)
    try:
        if saved is None:
            run.evaluate_base()
        if config.method != "base":
            run.learn()
    finally:
        run.close()
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
    ):
        self.config, self.policy = config, policy
        self.method = build_method(config, policy)
        self.programs = compile_programs(config, policy, self.method)
        self.env = make_env(config.num_envs)
        policy.require_fit(self.env.obs_dim, self.env.action_dim, self.env.chunk_len)
        self.eval_env = make_env(min(config.eval.num_envs, config.eval.episodes))
        sizes = saved.notes["sizes"] if saved else None
        self.log = MetricsLog(workdir, config, sizes)
        if saved is None:
            save_policy(workdir / POLICY, policy)  # the run's folder stands alone
        self.checkpoints = CheckpointStore(workdir / CHECKPOINTS)
        self.resume_store = ResumeStore(workdir, self.checkpoints)
        segments = saved.notes["segments"] if saved else None
        self.replay_log = ReplayLog(workdir / REPLAY, segments)
        self.saved = saved
        self.progress = Progress(config.total_env_steps)
        self.progress.__enter__()
        self.summaries: list[Summary] = []
        self.clocks = Clocks(ACTIVITIES)
        self.eval_seeds = evaluation_seeds(config.eval.seed, config.eval.episodes)
        self.key = jax.random.key(config.seed)
        self.eval_key = jax.random.key(config.eval.seed)
        self.env_steps = 0
        self.vector_step = config.num_envs * self.env.chunk_len
        self.recent: deque[EpisodeResult] = deque(maxlen=RECENT_EPISODES)
        self.pending: list[dict[str, jax.Array]] = []  # metrics still on the device

    def close(self) -> None:
        """Ends the environments' threads and closes the files."""
        self.progress.__exit__(None, None, None)
        self.log.close()
        self.env.close()
        self.eval_env.close()

    def evaluate_base(self) -> None:
        """Evaluates the unguided policy once per start noise, before any training."""
        for kind in self.config.eval.noises:

            def act(obs, seeds, chunk_index, kind=kind):
                arguments = (obs, self.eval_key, seeds, chunk_index)
                return self.programs.decode(kind, self.policy.params, *arguments)

            self._evaluate(f"base/{kind}", act)

    def evaluate_steered(self) -> None:
        """Evaluates the steered policy with acting's own start noise."""

        def act(obs, seeds, chunk_index):
            arguments = (obs, self.eval_key, seeds, chunk_index, self.env_steps)
            return self.programs.act(self.learner, self.policy.params, *arguments)[0]

        self._evaluate(f"{self.config.method}/{self.config.acting_noise}", act)

    def learn(self) -> None:
        """Trains until the budget of control steps is spent."""
        config = self.config
        self.learner = jax.jit(self.method.init)(jax.random.fold_in(self.key, INIT_KEY))
        self.replay = self._allocate_replay()
        self.collector = Collector(self.env, config.seed, config.reward_offset)
        if self.saved is not None:
            self._restore(self.saved)
        due_log = Due(config.log.every_env_steps, self.env_steps)
        due_evaluation = Due(config.eval.every_env_steps, self.env_steps)
        due_checkpoint = Due(config.checkpoint.every_env_steps, self.env_steps)
        self.clocks = Clocks(ACTIVITIES, first_step=self.env_steps)
        learning = self.saved is not None  # checkpoints are saved while learning
        while self.env_steps < config.total_env_steps:
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
            if due_log(self.env_steps) or first_call or last:
                self._log()
            if (due_evaluation(self.env_steps) and learning) or last:
                self.evaluate_steered()
            # One at once: else a run that dies early loses its first rollouts.
            if (due_checkpoint(self.env_steps) and learning) or first_call or last:
                self._checkpoint()

    def _explore(self) -> None:
        """One vector step of the first rollouts: the unguided policy, no training."""
        with self.clocks.measure("act"):
            kind = self.config.acting_noise
            chunks = np.asarray(
                self.programs.decode(kind, self.policy.params, *self._act_inputs())
            )
        self.replay = self.programs.store(self.replay, self._rollout(chunks))

    def _act_and_update(self) -> None:
        """One vector step of the steered policy and one training call."""
        with self.clocks.measure("act"):
            chunks, guide_metrics = self.programs.act(
                self.learner, self.policy.params, *self._act_inputs(), self.env_steps
            )
            chunks = np.asarray(chunks)
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
        self.pending.append(guide_metrics | metrics)

    def _checkpoint(self) -> None:
        """Saves everything that the run needs to go on from here, bit for bit."""
        self.pending = jax.device_get(self.pending)
        self._refuse_divergence(self.pending)
        notes = {
            "sizes": self.log.sizes(),
            "segments": self.replay_log.write(),
            "pending": [{k: float(v) for k, v in m.items()} for m in self.pending],
            "recent": [list(result) for result in self.recent],
            "summaries": [list(summary) for summary in self.summaries],
        }
        self.resume_store.save(self.env_steps, self.collector, notes)
        tree = checkpoint_tree(self.learner, self.env_steps)
        self.checkpoints.save(self.env_steps, tree)

    def _restore(self, saved: Saved) -> None:
        """Puts back what `_checkpoint` saved."""
        tree = self.checkpoints.restore(
            saved.env_steps, checkpoint_tree(self.learner, 0)
        )
        self.learner, self.env_steps = tree["learner"], tree["env_steps"]
        self.resume_store.restore_collector(saved.env_steps, self.collector)
        flat_dim = self.policy.chunk_len * self.policy.action_dim
        for segment in self.replay_log.read(self.policy.obs_dim, flat_dim):
            # in the pieces in which they came: one compiled program, no overflow
            for start in range(0, len(segment.reward), self.config.num_envs):
                stop = start + self.config.num_envs
                piece = Transition(*(part[start:stop] for part in segment))
                self.replay = self.programs.store(self.replay, piece)
        for values in saved.notes["pending"]:
            self.pending.append({k: np.float32(v) for k, v in values.items()})
        self.recent.extend(EpisodeResult(*r) for r in saved.notes["recent"])
        self.summaries = [Summary(*s) for s in saved.notes["summaries"]]
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
        init_replay = self.programs.init_replay
        return init_replay(capacity, self.policy.obs_dim, flat_dim)

    def _evaluate(self, name: str, act: ActFn) -> None:
        done: list[EpisodeResult] = []

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
                act,
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

    def _refuse_divergence(self, metrics: list[dict]) -> None:
        """Raises UserError, before anything is saved, where a value is not finite."""
        broken = sorted(
            {name for m in metrics for name, v in m.items() if not np.isfinite(v)}
        )
        if broken:
            raise UserError(
                f"training diverged: {', '.join(broken)} not finite at "
                f"{self.env_steps:,} control steps; the last checkpoint is kept; lower "
                "learning_rate or guidance.scale"
            )

    def _log(self) -> None:
        """Fetches the interval's metrics, all at once, and writes their means."""
        fetched, self.pending = jax.device_get(self.pending), []
        self._refuse_divergence(fetched)
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


def compile_programs(config: ConfigDict, policy: Policy, method) -> Programs:
    """Returns the run's functions, compiled on first use, states donated."""
    schedule = ddim_schedule(policy.schedule, config.ddim_steps)
    chunk_shape = (policy.chunk_len, policy.action_dim)

    def decode(kind, params, obs, key, seeds, chunk_index):
        noise = start_noise(kind, key, seeds, chunk_index, chunk_shape)
        eps_fn = policy.eps_fn_maker(schedule)(params)
        return ddim_decode(eps_fn, schedule, noise, obs)[0]

    @jax.jit
    def act(learner, params, obs, key, seeds, chunk_index, env_steps):
        kind = config.acting_noise
        noise = start_noise(kind, key, seeds, chunk_index, chunk_shape)
        return method.act(learner, params, obs, noise, env_steps)

    num_devices = jax.local_device_count()
    sizes = {"batch_size": config.batch_size, "num_envs": config.num_envs}
    parallel.require_shares(num_devices, **sizes)
    shard = build_method(config, policy, num_devices)
    learning = parallel.compile_learning(
        num_devices, replay_lib.init_replay, replay_lib.add, shard.update
    )
    return Programs(
        decode=jax.jit(with_precision(decode, config.precision), static_argnums=0),
        act=lambda learner, *inputs: act(learning.local(learner), *inputs),
        init_replay=learning.init_replay,
        store=learning.store,
        update=learning.update,
    )


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
