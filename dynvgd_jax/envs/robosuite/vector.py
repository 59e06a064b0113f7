"""Several environments of one task, stepped by action chunks on a pool of threads."""

import logging
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np

from dynvgd_jax.core.cores import usable_cores
from dynvgd_jax.core.errors import StuckError, UserError
from dynvgd_jax.core.normalize import Normalization
from dynvgd_jax.core.types import ChunkResult
from dynvgd_jax.envs.chunks import (
    check_scale,
    checked_indices,
    raw_actions,
    scaled_obs,
)
from dynvgd_jax.envs.robosuite import ENGINES
from dynvgd_jax.envs.robosuite.build import build_env, observe, reset_env
from dynvgd_jax.envs.robosuite.headless import mujoco
from dynvgd_jax.envs.robosuite.stock import ChunkOutcome, StockStepper
from dynvgd_jax.envs.robosuite.tasks import get_task

log = logging.getLogger(__name__)

VERIFIED_MUJOCO = "3.3.7"  # the compiled engine was compared with robosuite on this
# An environment is stuck when none has finished its chunk for this long, some thousand
# times what the slowest engine takes on a quiet machine.
STUCK_AFTER_S = 300.0
STUCK_PER_CONTROL_STEP_S = 30.0
_WAIT_SLICE_S = 1.0


class RobosuiteVectorEnv:
    """Environments of one task; an episode depends on its seed and actions only.

    task_name: one of tasks.TASKS.
    num_envs: how many simulators; each takes about 100 MB, mostly meshes.
    normalization: scale of observations and actions, or None for raw values.
    engine: "compiled" (the default; equal to robosuite up to rounding), "exact" (its
        bits, half as fast) or "robosuite" (its own step, one thread).
    num_threads: worker threads; None or 0 takes one for each core that
        this process may use. Never changes results.

    Attributes that scripted experts read between chunks: `envs`, the robosuite
    environments (`envs[i].sim.data` is current), and `raw_obs [num_envs, Do]` float64.

    Raises:
      UserError: for an unknown task or engine, unsuited versions or sizes, or an
        installation that the compiled engine does not fit.
      StuckError: from a step in which an environment hangs.
    """

    def __init__(
        self,
        task_name: str,
        num_envs: int,
        normalization: Normalization | None,
        *,
        engine: str = "compiled",
        num_threads: int | None = None,
    ):
        self.task = get_task(task_name)
        if engine not in ENGINES:
            raise UserError(f"unknown env.engine {engine!r}; use one of {ENGINES}")
        if num_envs < 1:
            raise UserError(f"num_envs is {num_envs}; expected at least 1")
        check_scale(normalization, self.task.sizes[:2], self.task.name)
        self.normalization = normalization
        self.num_envs = num_envs
        self.sizes = self.task.sizes
        self.envs = [build_env(self.task) for _ in range(num_envs)]
        self.engine = self._choose(engine)
        self._steppers = [self._make_stepper(env) for env in self.envs]
        self.raw_obs = np.zeros((num_envs, self.sizes.obs_dim))
        self._faulty = np.zeros(num_envs, bool)
        self._seeds = np.full(num_envs, -1)  # of the episodes; -1 before the first
        self._chunks = np.zeros(num_envs, int)  # of those episodes, started so far
        self._stuck = False
        if self.engine == "robosuite":
            num_threads = 1  # pure Python: threads would only wait for each other
        self.num_threads = num_threads or usable_cores()
        # Compiles now, which can take minutes, not in the first step, which is watched.
        self._steppers[0].run(np.empty((0, self.sizes.action_dim)))
        self._pool = ThreadPoolExecutor(self.num_threads, thread_name_prefix="envs")
        self._pending = deque()  # (indices, length, futures) per running step_async

    def reset(self, indices: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Starts the episode of `seeds[i]` in environment `indices[i]`.

        Returns the first observations [n, Do] float32.
        """
        indices = checked_indices(indices, self.num_envs)
        self._check_idle(indices)
        if len(seeds) != len(indices):
            raise ValueError(f"{len(seeds)} seeds for {len(indices)} environments")
        for index, seed in zip(indices, seeds):
            obs = reset_env(self.envs[index], int(seed))
            self.raw_obs[index] = observe(self.task, obs)
            self._steppers[index].start()
            self._faulty[index] = False
            self._seeds[index], self._chunks[index] = seed, 0
        return scaled_obs(self.normalization, self.raw_obs[indices])

    def step(self, indices: np.ndarray, actions: np.ndarray) -> ChunkResult:
        """Runs the chunks `actions [n, Ta, Da]`; any Ta >= 1 is allowed.

        A chunk in which the physics broke (NaN, a MuJoCo warning) reports `fault`, no
        reward, no success and the last sound observation; so does every later chunk
        of that environment until it is reset.

        Raises:
          ValueError: on wrong shapes or non-finite actions, before any physics.
        """
        self._check_idle()
        self.step_async(indices, actions)
        return self.step_wait()

    def step_async(self, indices: np.ndarray, actions: np.ndarray) -> None:
        """Starts a step in the background; `step_wait` returns its result.

        A second group of other environments may be started before the first is waited
        for, so that physics of one and decisions of the other overlap.
        """
        indices = checked_indices(indices, self.num_envs)
        self._check_idle(indices)
        dim = self.sizes.action_dim
        actions = raw_actions(self.normalization, actions, len(indices), dim)
        futures = [
            None if self._faulty[i] else self._pool.submit(self._steppers[i].run, a)
            for i, a in zip(indices, actions)
        ]
        self._chunks[indices] += 1
        self._pending.append((indices, actions.shape[1], futures))

    def step_wait(self) -> ChunkResult:
        """Returns the result of the oldest step that `step_async` started."""
        if not self._pending:
            raise RuntimeError("step_wait without step_async")
        indices, length, futures = self._pending.popleft()
        self._await(indices, length, futures)
        broken = ChunkOutcome(None, np.zeros(length), np.zeros(length, bool), True)
        outcomes = [broken if f is None else f.result() for f in futures]
        for row, (index, outcome) in enumerate(zip(indices, outcomes)):
            if outcome.fault:
                self._faulty[index] = True
                outcomes[row] = broken
            else:
                self.raw_obs[index] = outcome.obs
        return ChunkResult(
            obs=scaled_obs(self.normalization, self.raw_obs[indices]),
            reward=np.array([o.reward for o in outcomes], np.float32),
            success=np.array([o.success for o in outcomes], bool),
            fault=np.array([o.fault for o in outcomes], bool),
            terminated=np.zeros(len(outcomes), bool),  # robosuite ignores its `done`
            steps=np.full(len(outcomes), length, np.int32),
        )

    def get_state(self) -> dict[str, np.ndarray]:
        """Returns all hidden state, each entry stacked over environments."""
        self._check_idle()
        states = [stepper.get_state() for stepper in self._steppers]
        stacked = {key: np.stack([s[key] for s in states]) for key in states[0]}
        return {
            **stacked,
            "raw_obs": self.raw_obs.copy(),
            "faulty": self._faulty.copy(),
            "episode_seed": self._seeds.copy(),
            "episode_chunks": self._chunks.copy(),
        }

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Continues from a `get_state` of the same task, engine and number, exactly."""
        self._check_idle()
        if len(state["raw_obs"]) != self.num_envs:
            raise ValueError(
                f"state of {len(state['raw_obs'])} environments, "
                f"expected {self.num_envs}"
            )
        for index, stepper in enumerate(self._steppers):
            stepper.set_state({key: value[index] for key, value in state.items()})
        self.raw_obs[:] = state["raw_obs"]
        self._faulty[:] = state["faulty"]
        self._seeds[:] = state["episode_seed"]
        self._chunks[:] = state["episode_chunks"]

    def close(self) -> None:
        """Ends the threads and frees the simulators, where no thread is stuck."""
        if self._stuck:  # it may still use its simulator, and would be waited for
            self._pool.shutdown(wait=False, cancel_futures=True)
            return
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()
        self._steppers = []
        for env in self.envs:
            env.close()
        self.envs = []

    def _await(self, indices, length, futures: list[Future | None]) -> None:
        """Waits for a step; StuckError names environments that hang.

        Counts slices of waiting, not the clock: a process that was stopped and
        continued finds little time gone.
        """
        unfinished, quiet_s = {f for f in futures if f is not None}, 0.0
        limit_s = STUCK_AFTER_S + STUCK_PER_CONTROL_STEP_S * length
        while unfinished:
            done, unfinished = wait(unfinished, _WAIT_SLICE_S)
            quiet_s = 0.0 if done else quiet_s + _WAIT_SLICE_S
            if quiet_s >= limit_s:
                self._stuck = True
                groups = [(indices, length, futures), *self._pending]
                raise StuckError(
                    f"no environment finished its chunk for {limit_s:.0f} s; stuck: "
                    + "; ".join(
                        f"environment {i} (episode seed {self._seeds[i]}, chunk "
                        f"{self._chunks[i] - 1}) of task {self.task.name}"
                        for indices, _, futures in groups
                        for i, future in zip(indices, futures)
                        if future is not None and future.running()
                    )
                )

    def _choose(self, engine):
        if engine != "robosuite" and mujoco.__version__ != VERIFIED_MUJOCO:
            log.warning(
                "mujoco %s is installed, the compiled engine was verified with %s: "
                "using robosuite's own step, about ten times slower",
                mujoco.__version__,
                VERIFIED_MUJOCO,
            )
            return "robosuite"
        return engine

    def _make_stepper(self, env):
        if self.engine == "robosuite":
            return StockStepper(env, self.task)
        if self.task.parts is None:
            raise UserError(
                f"task {self.task.name} has no parts, which env.engine={self.engine} "
                "steps; use env.engine=robosuite"
            )
        # imported here: numba's start costs a second that the fallback can save
        from dynvgd_jax.envs.robosuite.control import CompiledStepper

        try:
            return CompiledStepper(env, self.task, exact=self.engine == "exact")
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"the compiled engine does not fit this installation ({error}); "
                "use env.engine=robosuite"
            ) from error

    def _check_idle(self, indices=None):
        """Refuses environments (None: all) that a background step is using."""
        for running, _, _ in self._pending:
            if indices is None or np.isin(indices, running).any():
                raise RuntimeError("a step is running; call step_wait first")
