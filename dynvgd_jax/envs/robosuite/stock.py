"""Steps one environment through robosuite's own `step`: the slow, plain path."""

from typing import Any, NamedTuple

import numpy as np

from dynvgd_jax.envs.robosuite import snapshot
from dynvgd_jax.envs.robosuite.build import observe
from dynvgd_jax.envs.robosuite.task import Task


class ChunkOutcome(NamedTuple):
    """One environment's part of a chunk, in raw units."""

    obs: np.ndarray  # [Do] float64, after the last control step
    reward: np.ndarray  # [Ta] float64
    success: np.ndarray  # [Ta] bool
    fault: bool  # physics broke


class StockStepper:
    """Runs chunks by calling robosuite once per control step."""

    def __init__(self, env: Any, task: Task):
        self.env, self.task = env, task

    def start(self) -> None:
        """Called after each reset; robosuite keeps its own state."""

    def run(self, actions: np.ndarray) -> ChunkOutcome:
        """Runs raw actions [Ta, Da]; stops at the first broken step."""
        rewards = np.zeros(len(actions))
        success = np.zeros(len(actions), bool)
        obs = np.full(self.task.obs_dim, np.nan)
        data = self.env.sim.data._data
        for i, action in enumerate(actions):
            before = data.time
            try:
                obs_dict, rewards[i], _, _ = self.env.step(action)
            except np.linalg.LinAlgError:  # the controller met a non-finite state
                return ChunkOutcome(obs, rewards, success, True)
            obs = observe(self.task, obs_dict)
            broken = data.warning.number.any() or not data.time > before
            if broken or not np.isfinite(obs).all():
                return ChunkOutcome(obs, rewards, success, True)
            success[i] = bool(self.env._check_success())
        return ChunkOutcome(obs, rewards, success, False)

    def get_state(self) -> dict[str, np.ndarray]:
        """Returns everything that the rest of the episode depends on."""
        return {
            **snapshot.read_physics(self.env),
            **snapshot.read_controllers(self.env),
            **snapshot.read_samplers(self.env),
        }

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Continues from a state of `get_state`, bit for bit."""
        snapshot.write_physics(self.env, state)
        snapshot.write_controllers(self.env, state)
        snapshot.write_samplers(self.env, state)
