"""Opens what a run needs, and registers at once how each of it is closed."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from dynvgd_jax.agent import POLICY, load_learner
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.types import PyTree
from dynvgd_jax.demos.offline import Offline, load_offline
from dynvgd_jax.diffusion.policy import Policy
from dynvgd_jax.diffusion.policy_files import load_policy, policy_source, save_policy
from dynvgd_jax.envs import base as envs
from dynvgd_jax.envs.base import VectorEnv
from dynvgd_jax.envs.rollout import Collector, evaluation_seeds
from dynvgd_jax.replay.log import ReplayLog
from dynvgd_jax.replay.ring import example_transition, transition_nbytes
from dynvgd_jax.runs.lock import FolderLock
from dynvgd_jax.runs.metrics import MetricsLog
from dynvgd_jax.runs.terminal import Progress
from dynvgd_jax.steering.methods import build_method
from dynvgd_jax.training import processes
from dynvgd_jax.training.origins import CRITICS_NOTE, critics_sha256
from dynvgd_jax.training.placement import place
from dynvgd_jax.training.programs import compile_programs
from dynvgd_jax.training.proposing import offline_with_proposals
from dynvgd_jax.training.replay_memory import MEMORIES, DeviceReplay, HostReplay
from dynvgd_jax.training.resume import (
    REPLAY,
    ResumeStore,
    Saved,
    find_saved,
    lock_runs,
)
from dynvgd_jax.training.state import INIT_KEY, Job, RunState, SeedState

MakeEnv = Callable[[int], VectorEnv]


def open_run(
    config: ConfigDict,
    workdir: Path,
    make_env: MakeEnv | None,
    resume: bool,
    stop: Callable[[], bool],
    held: contextlib.ExitStack,
) -> RunState:
    """Returns a run that has everything but its learner's and episodes' state.

    Args:
      config: of the run, checked.
      workdir: its folder.
      make_env: number of environments -> environments; None makes the task's.
      resume: go on with the run in `workdir`.
      stop: whether the run is asked to end.
      held: closes what is opened here.

    Raises:
      UserError: see `loop.train`.
    """
    folders, configs = seed_folders(workdir, config), seed_configs(config)
    source, saved, locks = policy_source(config), [None] * len(folders), []
    if resume:
        locks = processes.by_first(lambda: lock_runs(workdir, folders)) or []
        for lock in locks:
            held.enter_context(lock)
        saved = processes.by_all(lambda: find_saved(folders, configs))
        processes.require_equal("checkpoint", [s and s.env_steps for s in saved])
        _require_budget(config, saved[0])
        copied = folders[0] / POLICY
        source = str(copied) if copied.exists() else source
    policy = load_policy(source)
    policy.require_kind(config.policy_kind)
    if make_env is None:
        policy.require_task(config.task)
        make_env = functools.partial(envs.make_env, config, policy.normalization)
    placement = place(config.num_seeds)
    method = build_method(config, policy, placement.average)
    programs = compile_programs(config, policy, method, placement)
    learner = None
    if config.initial_critics and saved[0] is None:
        start = load_learner(config.initial_critics, config, method)
        learner = programs.put([start] * config.num_seeds)
    offline = _load_offline(config, policy, saved[0])
    num_envs = own_envs(config.num_envs, processes.count())
    own = [_open_env(make_env, num_envs, held) for _ in folders]
    envs.require_saving(own[0])  # now, rather than at the first checkpoint
    sizes = own[0].sizes
    policy.require_fit(sizes.obs_dim, sizes.action_dim, sizes.chunk_len)
    eval_envs = min(config.eval.num_envs, config.eval.episodes)
    eval_env = _open_env(make_env, -(-eval_envs // processes.count()), held)
    sha256 = offline and offline.sha256
    seeds = []
    for i, folder in enumerate(folders):
        lock = locks[i] if locks else None
        files = open_seed(
            configs[i], folder, policy, own[i], saved[i], lock, resume, sha256, held
        )
        seeds.append(files)
    flat_dim = sizes.chunk_len * sizes.action_dim
    progress = Progress(config.total_env_steps, quiet=not processes.is_first())
    job = Job(
        config=config,
        policy=policy,
        method=method,
        placement=placement,
        programs=programs,
        example=example_transition(
            sizes.obs_dim, flat_dim, method.extras, method.next_extras
        ),
        offline=offline,
        eval_env=eval_env,
        eval_seeds=evaluation_seeds(config.eval.seed, config.eval.episodes),
        progress=held.enter_context(progress),
        stop=stop,
        vector_step=config.num_envs * sizes.chunk_len,
        saved=saved[0],
    )
    return RunState(job, seeds, learner)


def open_seed(
    config: ConfigDict,
    workdir: Path,
    policy: Policy,
    env: VectorEnv,
    saved: Saved | None,
    lock: FolderLock | None,
    resuming: bool,
    offline_sha256: str | None,
    held: contextlib.ExitStack,
) -> SeedState:
    """Opens one seed's files.

    Args:
      config: of this seed alone.
      workdir: this seed's folder.
      policy: base policy, whose copy goes there.
      env: this process's training environments.
      saved: what the run goes on from; None begins anew.
      lock: of the folder, where it is held already.
      resuming: the folder may hold a run, whose files are continued.
      offline_sha256: of the offline transitions, if any.
      held: closes what is opened here.

    Raises:
      UserError: the folder is taken or cannot be written.
    """
    notes = saved.notes if saved else {}
    sizes = notes.get("sizes", {}) if resuming else None

    def open_files() -> MetricsLog:
        log = held.enter_context(MetricsLog(workdir, config, sizes, lock))
        if not (workdir / POLICY).exists():
            save_policy(workdir / POLICY, policy)  # the folder stands alone
        return log

    log = processes.by_first(open_files)
    # several devices round up what each holds, and share whole vector steps
    capacity = config.replay.capacity + 2 * config.num_envs
    return SeedState(
        config=config,
        workdir=workdir,
        env=env,
        log=log,
        store=ResumeStore(workdir),
        replay_log=ReplayLog(workdir / REPLAY, capacity, notes.get("segments")),
        saved=saved,
        offline_sha256=offline_sha256,
        critics_sha256=(
            notes.get(CRITICS_NOTE) if saved else critics_sha256(config.initial_critics)
        ),
    )


def begin(run: RunState) -> None:
    """Makes the learner of a new run, its replay memory and its first episodes."""
    config, method = run.job.config, run.job.method
    if run.learner is None and run.job.saved is None:
        init = jax.jit(method.init)
        keys = [seed.key(INIT_KEY) for seed in run.seeds]
        run.learner = run.job.programs.put([init(key) for key in keys])
    for seed in run.seeds:
        seed.collector = Collector(
            seed.env,
            seed.seed,
            config.reward_offset,
            first_env=processes.index() * seed.env.num_envs,
            num_envs=config.num_envs,
            gamma=config.gamma,
            end_at_success=config.end_at_success,
            bootstrap_at_time_limit=config.bootstrap_at_time_limit,
        )
    if method.update is not None:
        run.replay = _reserve_replay(run.job)


def _open_env(make_env: MakeEnv, num_envs: int, held) -> VectorEnv:
    env = make_env(num_envs)
    held.callback(env.close)
    return env


def _reserve_replay(job: Job) -> DeviceReplay | HostReplay:
    """Reserves what the run can fill, now rather than hours later."""
    config = job.config
    steps = -(-config.total_env_steps // job.vector_step)
    capacity = min(config.replay.capacity, steps * config.num_envs)
    capacity = max(capacity, config.num_envs)
    size = capacity * transition_nbytes(job.example)
    times = f"{config.num_seeds} x " if config.num_seeds > 1 else ""
    job.progress.message(
        f"replay buffer: {times}{capacity:,} transitions, {size / 1e6:,.0f} MB of "
        f"{config.replay.memory} memory"
    )
    if job.offline is not None:
        count = len(job.offline.transitions.reward)
        job.progress.message(f"offline transitions: {count:,}")
    offline: PyTree = job.offline and offline_with_proposals(job)
    return MEMORIES[config.replay.memory](job.placement, capacity, job.example, offline)


def _load_offline(
    config: ConfigDict, policy: Policy, saved: Saved | None
) -> Offline | None:
    """Reads the offline transitions; a resumed run's must be those it began with.

    Raises:
      UserError: the file is unfit, or its transitions are others than they were.
    """
    offline = None
    if config.replay.offline_dataset:
        offline = load_offline(
            config.replay.offline_dataset,
            policy.normalization,
            policy.chunk_len,
            config.reward_offset,
            config.task,
            config.replay.offline_filter_key,
        )
    if saved is not None:
        found = offline and offline.sha256
        expected = saved.notes["offline_sha256"]
        if found != expected:
            raise UserError(
                f"config.replay.offline_dataset: found transitions of SHA-256 "
                f"{found}, expected {expected}: the run began with other offline "
                "transitions"
            )
    return offline


def _require_budget(config: ConfigDict, saved: Saved | None) -> None:
    """Raises UserError where a run is past the budget that it shall go on with."""
    if saved is not None and config.total_env_steps < saved.env_steps:
        raise UserError(
            f"config.total_env_steps: found {config.total_env_steps:,}, but the run is "
            f"at {saved.env_steps:,} control steps already; give at least that"
        )


def own_envs(num_envs: int, num_processes: int) -> int:
    """Returns how many of a seed's training environments each process steps.

    Raises:
      UserError: they cannot be shared equally.
    """
    if num_envs % num_processes:
        raise UserError(
            f"config.num_envs: found {num_envs}, expected a multiple of "
            f"{num_processes}, the number of processes that share them"
        )
    return num_envs // num_processes


def seed_configs(config: ConfigDict) -> list[ConfigDict]:
    """Returns the configuration of each of a run's seeds, as if it ran alone."""
    configs = []
    for offset in range(config.num_seeds):
        alone = ConfigDict(config.to_dict())
        alone.seed, alone.num_seeds = config.seed + offset, 1
        configs.append(alone.lock())
    return configs


def seed_folders(workdir: Path, config: ConfigDict) -> Sequence[Path]:
    """Returns each seed's folder: `workdir` itself where there is one seed."""
    if config.num_seeds == 1:
        return [workdir]
    return [workdir / f"seed{config.seed + i}" for i in range(config.num_seeds)]
