"""Values that cross the borders of the wings: environment results, transitions."""

from typing import Any, NamedTuple, Protocol

import numpy as np

PyTree = Any


class ChunkResult(NamedTuple):
    """What one action chunk did to `n` environments."""

    obs: np.ndarray  # [n, Do] float32, normalised, after the chunk's last control step
    reward: np.ndarray  # [n, Ta] float32, its own reward per control step
    success: np.ndarray  # [n, Ta] bool, its own success per control step
    fault: np.ndarray  # [n] bool, physics broke: the episode has failed


class VectorEnv(Protocol):
    """Several environments stepped by action chunks; never resets by itself."""

    num_envs: int
    obs_dim: int
    action_dim: int
    chunk_len: int
    max_episode_env_steps: int

    def reset(self, indices: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Starts an episode in each named environment; returns obs `[n, Do]`."""

    def step(self, indices: np.ndarray, actions: np.ndarray) -> ChunkResult:
        """Runs `actions [n, Ta, Da]` (normalised) in the named environments."""

    def step_async(self, indices: np.ndarray, actions: np.ndarray) -> None:
        """Starts a step in the background."""

    def step_wait(self) -> ChunkResult:
        """Returns the result of the oldest step that `step_async` started."""

    def get_state(self) -> dict[str, np.ndarray]:
        """Returns all hidden state; every leading axis is `num_envs`."""

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Continues from a `get_state` exactly."""

    def close(self) -> None:
        """Ends the threads and frees the simulators."""


class Transition(NamedTuple):
    """One action chunk as the learner sees it; every field has leading batch axes."""

    obs: Any  # [..., Do] float32, normalised
    action: Any  # [..., Ta * Da] float32, normalised, flattened chunk
    reward: Any  # [...] float32, sum over the chunk of (reward - reward_offset)
    next_obs: Any  # [..., Do] float32; the terminal observation at an episode's end
    # [...] float32; targets bootstrap with 1 - done: 1 where the episode ended, 0
    # elsewhere and at a time limit that targets look past; of m chunks together
    # 1 - gamma^(m - 1), see `replay.look_ahead`
    done: Any


class EpisodeResult(NamedTuple):
    """One finished episode."""

    seed: int  # seed of the episode's reset
    success_any: bool  # some control step was successful (robosuite's success)
    success_chunk: bool  # all control steps of some chunk were (published success)
    episode_return: float  # sum of (reward - reward_offset) over all control steps
    length: int  # control steps
    fault: bool  # physics broke; counted as a failure
