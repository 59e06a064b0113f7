"""What a run is while it goes on: records, and where its random streams begin."""

import dataclasses
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from dynvgd_jax.core.types import EpisodeEnds, EpisodeResult, Transition
from dynvgd_jax.demos.offline import Offline
from dynvgd_jax.diffusion.policy import Policy
from dynvgd_jax.envs.base import VectorEnv
from dynvgd_jax.envs.rollout import Collector
from dynvgd_jax.replay.log import ReplayLog
from dynvgd_jax.runs.clocks import Clocks
from dynvgd_jax.runs.metrics import MetricsLog
from dynvgd_jax.runs.summary import Summary, judged, shown
from dynvgd_jax.runs.terminal import Progress
from dynvgd_jax.steering.base import ActInputs, Method
from dynvgd_jax.training import processes
from dynvgd_jax.training.placement import Placement
from dynvgd_jax.training.programs import Programs
from dynvgd_jax.training.replay_memory import DeviceReplay, HostReplay
from dynvgd_jax.training.resume import ResumeStore, Saved

# Training calls whose scalars a diagnosis of divergence looks back on.
RECENT_CALLS = 200
# Finished training episodes over which success and return are averaged.
RECENT_EPISODES = 100

ACTIVITIES = ("act", "rollout", "propose", "update", "eval")

# Uses of a seed's key; a key is drawn from one of these and a counter.
INIT_KEY, ACT_KEY, UPDATE_KEY = range(3)

# One program: a vector step asks for a key of every seed.
_fold_in = jax.jit(jax.random.fold_in)

# Control steps after a training call, and the call's scalars.
Record = tuple[int, Mapping[str, float]]


class StoppedError(Exception):
    """The run was asked to stop; its state is that between two vector steps."""


class Job(NamedTuple):
    """What does not change while a run goes on."""

    config: ConfigDict
    policy: Policy
    method: Method
    placement: Placement
    programs: Programs
    example: Transition  # one stored transition
    offline: Offline | None
    eval_env: VectorEnv
    eval_seeds: np.ndarray  # [episodes] uint32
    progress: Progress
    stop: Callable[[], bool]  # whether the run is asked to end
    vector_step: int  # control steps of one vector step, in each seed
    saved: Saved | None  # what the run goes on from, of its first seed


@dataclasses.dataclass
class SeedState:
    """What a run has once for each of its seeds.

    In a run of several processes each has its environments here, and the first one
    the files.
    """

    config: ConfigDict  # of this seed alone
    workdir: Path
    env: VectorEnv  # this process's training environments
    log: MetricsLog | None  # in the first process
    store: ResumeStore
    replay_log: ReplayLog
    saved: Saved | None
    offline_sha256: str | None  # of the offline transitions, if any
    critics_sha256: str | None  # of the critics that the run began with, if any
    collector: Collector | None = None  # once the first episodes have begun
    # what `Method.propose` gave for the collector's observations; None: nothing yet
    proposed: dict[str, np.ndarray] | None = None
    recent: deque[EpisodeResult] = dataclasses.field(
        default_factory=lambda: deque(maxlen=RECENT_EPISODES)
    )
    summaries: list[Summary] = dataclasses.field(default_factory=list)
    pending: list[Record] = dataclasses.field(default_factory=list)  # not logged yet
    history: deque[Record] = dataclasses.field(  # logged
        default_factory=lambda: deque(maxlen=RECENT_CALLS)
    )
    out_of_range: bool = False  # the critics' values were, when last logged
    # in this process, not in `recent`, in the log, yet
    ended: list[EpisodeResult] = dataclasses.field(default_factory=list)
    # stored, not saved yet; of a method without replay buffers none
    fresh: list[Transition] = dataclasses.field(default_factory=list)
    _keys: dict[int, jax.Array] = dataclasses.field(default_factory=dict)  # by use

    @property
    def seed(self) -> int:
        return self.config.seed

    def key(self, use: int) -> jax.Array:
        """The key of one use, INIT_KEY, ACT_KEY or UPDATE_KEY."""
        if use not in self._keys:
            key = jax.random.key(self.config.seed)
            self._keys[use] = jax.random.fold_in(key, use)
        return self._keys[use]

    def update_key(self, env_steps: int) -> jax.Array:
        """The key of the training call at `env_steps`."""
        return _fold_in(self.key(UPDATE_KEY), np.uint32(env_steps))

    def act_inputs(self, env_steps: int) -> ActInputs:
        """What training acts on."""
        books = self.collector.books
        return ActInputs(
            obs=self.collector.obs,
            key=self.key(ACT_KEY),
            seeds=books.seed,
            chunk_index=books.chunks,
            episode=books.episode.astype(np.int32),
            env_steps=env_steps,
        )

    def finish_step(self) -> tuple[Transition, EpisodeEnds]:
        """Waits for the environments; returns what is new in this process."""
        fresh, ended, ends = self.collector.step_wait()
        self.ended += ended
        return fresh, ends

    def share_episodes(self) -> None:
        """Tells all processes of the episodes that ended in each."""
        for results in processes.gather_objects([list(r) for r in self.ended]):
            self.recent.extend(EpisodeResult(*r) for r in results)
        self.ended = []

    def success_rate(self) -> float | None:
        """Of the recent episodes; None before the first."""
        episodes = [*self.recent, *self.ended]
        if not episodes:
            return None
        return sum(r.success_chunk for r in episodes) / len(episodes)

    def recent_measure(self) -> dict[str, float]:
        """Of the recent episodes, what `Progress.update` shows; nothing before."""
        episodes = [*self.recent, *self.ended]
        return shown(episodes, **judged(self.config)) if episodes else {}


@dataclasses.dataclass
class RunState:
    """All that changes while a run goes on.

    With several processes every one holds a `RunState` of the same values, but for its
    own environments, and calls the functions on it at the same time.
    """

    job: Job
    seeds: list[SeedState]
    learner: Any = None  # of all seeds, as `Programs.act` takes it
    replay: DeviceReplay | HostReplay | None = None  # where batches are drawn
    env_steps: int = 0  # control steps so far, of each seed
    to_evaluate: bool = False  # the steered policy, before the next vector step
    finished: bool = False  # all is done that the configuration says
    retry_at: float | None = None  # when to repeat a checkpoint that failed, s
    # (env_steps, scalars on the devices), not fetched yet
    pending: list = dataclasses.field(default_factory=list)
    clocks: Clocks = dataclasses.field(default_factory=lambda: Clocks(ACTIVITIES))

    def num_updates(self) -> int:
        """Gradient steps so far, of each seed; fetched from the device."""
        return int(np.ravel(jax.device_get(self.learner.num_updates))[0])

    def recent_measure(self) -> dict[str, float]:
        """Of recent episodes, what `Progress.update` shows; nothing before the first.

        The mean over the seeds.
        """
        each = [seed.recent_measure() for seed in self.seeds]
        if not all(each):
            return {}
        return {name: sum(own[name] for own in each) / len(each) for name in each[0]}
