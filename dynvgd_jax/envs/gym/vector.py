"""Several of gymnasium's environments, stepped by action chunks on threads."""

import logging
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dynvgd_jax.core.cores import usable_cores
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.normalize import Normalization
from dynvgd_jax.core.types import ChunkResult
from dynvgd_jax.envs.chunks import (
    check_scale,
    checked_indices,
    raw_actions,
    scaled_obs,
)
from dynvgd_jax.envs.gym.build import build_env, sizes_of
from dynvgd_jax.envs.gym.stepper import GymStepper

log = logging.getLogger(__name__)


class GymVectorEnv:
    """Environments of one task; an episode depends on its seed and actions only.

    task: one of tasks.IDS, or `gym:` and gymnasium's id.
    num_envs: how many.
    normalization: scale of observations and actions, or None for raw values.
    num_threads: worker threads; 0 takes one for each core that this process may use.
        Never changes results.

    `raw_obs [num_envs, Do]` float64 is what each environment showed last.

    Raises:
      UserError: gymnasium, the environment or fitting spaces are missing, or the scale
        is another task's.
    """

    def __init__(
        self,
        task: str,
        num_envs: int,
        normalization: Normalization | None,
        *,
        num_threads: int = 0,
    ):
        if num_envs < 1:
            raise UserError(f"num_envs is {num_envs}; expected at least 1")
        first = build_env(task)
        self.sizes = sizes_of(first)
        check_scale(normalization, (self.sizes.obs_dim, self.sizes.action_dim), task)
        self.normalization = normalization
        self.num_envs = num_envs
        # [Da] each, of raw actions
        self.action_bounds = (first.action_space.low, first.action_space.high)
        envs = [first, *(build_env(task) for _ in range(num_envs - 1))]
        self._steppers = [GymStepper(env) for env in envs]
        self.raw_obs = np.zeros((num_envs, self.sizes.obs_dim))
        threads = num_threads or usable_cores()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="envs")
        self._pending = deque()  # (indices, futures) per running step_async

    def reset(self, indices: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Starts the episode of `seeds[i]` in environment `indices[i]`.

        Returns the first observations `[n, Do]` float32.
        """
        indices = checked_indices(indices, self.num_envs)
        self._check_idle(indices)
        if len(seeds) != len(indices):
            raise ValueError(f"{len(seeds)} seeds for {len(indices)} environments")
        for index, seed in zip(indices, seeds):
            self.raw_obs[index] = self._steppers[index].reset(int(seed))
        return scaled_obs(self.normalization, self.raw_obs[indices])

    def step(self, indices: np.ndarray, actions: np.ndarray) -> ChunkResult:
        """Runs the chunks `actions [n, Ta, Da]`; any Ta >= 1 is allowed.

        A chunk ends with the control step that ends its episode or reaches the time
        limit: what is left of it is not executed and earns nothing.

        Raises:
          ValueError: on wrong shapes or non-finite actions, before any physics.
        """
        self.step_async(indices, actions)
        return self.step_wait()

    def step_async(self, indices: np.ndarray, actions: np.ndarray) -> None:
        """Starts a step in the background; `step_wait` returns its result."""
        indices = checked_indices(indices, self.num_envs)
        self._check_idle(indices)
        dim = self.sizes.action_dim
        actions = raw_actions(self.normalization, actions, len(indices), dim)
        futures = [
            self._pool.submit(self._steppers[i].run, chunk)
            for i, chunk in zip(indices, actions)
        ]
        self._pending.append((indices, futures))

    def step_wait(self) -> ChunkResult:
        """Returns the result of the oldest step that `step_async` started."""
        if not self._pending:
            raise RuntimeError("step_wait without step_async")
        indices, futures = self._pending.popleft()
        outcomes = [future.result() for future in futures]
        for index, outcome in zip(indices, outcomes):
            self.raw_obs[index] = outcome.obs
        return ChunkResult(
            obs=scaled_obs(self.normalization, self.raw_obs[indices]),
            reward=np.array([o.reward for o in outcomes], np.float32),
            success=np.array([o.success for o in outcomes], bool),
            fault=np.array([o.fault for o in outcomes], bool),
            terminated=np.array([o.terminated for o in outcomes], bool),
            steps=np.array([o.steps for o in outcomes], np.int32),
        )

    def get_state(self) -> dict[str, np.ndarray]:
        """Returns each episode's seed and actions so far.

        Raises:
          ValueError: an episode has gone past its time limit.
        """
        self._check_idle()
        limit, dim = self.sizes.max_episode_env_steps, self.sizes.action_dim
        dtype = self._steppers[0].env.action_space.dtype
        actions = np.zeros((self.num_envs, limit, dim), dtype)
        counts = np.array([len(s.actions) for s in self._steppers], np.int64)
        if counts.max() > limit:
            raise ValueError(f"{counts.max()} control steps, the limit is {limit}")
        for own, stepper in zip(actions, self._steppers):
            if stepper.actions:
                own[: len(stepper.actions)] = stepper.actions
        return {
            "episode_seed": np.array([s.seed for s in self._steppers], np.int64),
            "actions": actions,
            "num_actions": counts,
            "raw_obs": self.raw_obs.copy(),
        }

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Continues from a `get_state` of the same task and number, exactly.

        Plays the episodes again: a thousand steps of one take 0.1 s. Where that leads
        elsewhere, as on a processor that rounds otherwise, a warning says so and the
        episode goes on from there.
        """
        self._check_idle()
        if len(state["raw_obs"]) != self.num_envs:
            raise ValueError(
                f"state of {len(state['raw_obs'])} environments, "
                f"expected {self.num_envs}"
            )
        seeds, counts = state["episode_seed"], state["num_actions"]

        def play(index: int) -> None:
            stepper, seed = self._steppers[index], int(seeds[index])
            if seed >= 0:
                stepper.replay(seed, state["actions"][index, : counts[index]])

        list(self._pool.map(play, range(self.num_envs)))
        for index, stepper in enumerate(self._steppers):
            self.raw_obs[index] = stepper.obs
            if not np.array_equal(stepper.obs, state["raw_obs"][index]):
                log.warning(
                    "environment %d (episode seed %d) does not come back to where it "
                    "was saved: its episode goes on from what its actions lead to here",
                    index,
                    seeds[index],
                )

    def close(self) -> None:
        """Ends the threads and frees the simulators."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()
        for stepper in self._steppers:
            stepper.env.close()
        self._steppers = []

    def _check_idle(self, indices: np.ndarray | None = None) -> None:
        """Refuses environments (None: all) that a background step is using."""
        for running, _ in self._pending:
            if indices is None or np.isin(indices, running).any():
                raise RuntimeError("a step is running; call step_wait first")
