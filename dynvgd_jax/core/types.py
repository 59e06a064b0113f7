"""Values that cross the borders of the wings: environment results, transitions."""

from typing import Any, NamedTuple

import numpy as np

PyTree = Any


class ChunkResult(NamedTuple):
    """What one action chunk did to `n` environments."""

    obs: np.ndarray  # [n, Do] float32, normalised, after the chunk's last control step
    reward: np.ndarray  # [n, Ta] float32, its own reward per control step
    success: np.ndarray  # [n, Ta] bool, its own success per control step
    fault: np.ndarray  # [n] bool, physics broke: the episode has failed
    # [n] bool, the task itself ended the episode: nothing follows; None: of none
    terminated: np.ndarray | None = None
    # [n] int32, control steps executed, fewer than Ta where the episode ended before;
    # None is all of them. The others have reward 0
    steps: np.ndarray | None = None

    @property
    def ended(self) -> np.ndarray:
        """[n] bool, nothing of the episode follows, whatever the time limit is."""
        return self.fault if self.terminated is None else self.fault | self.terminated

    @property
    def whole_success(self) -> np.ndarray:
        """[n] bool, every control step that was executed was successful."""
        steps = np.arange(self.reward.shape[1])
        executed = steps < self.reward.shape[1] - self.skipped[:, None]
        return (self.success | ~executed).all(axis=1) & executed.any(axis=1)

    @property
    def skipped(self) -> np.ndarray:
        """[n] int32, last control steps of the chunk that were not executed."""
        if self.steps is None:
            return np.zeros(len(self.reward), np.int32)
        return self.reward.shape[1] - self.steps


class Transition(NamedTuple):
    """One action chunk as the learner sees it; every field has leading batch axes."""

    obs: Any  # [..., Do] float32, normalised
    action: Any  # [..., Ta * Da] float32, normalised, flattened chunk
    reward: Any  # [...] float32, sum over the chunk of (reward - reward_offset)
    next_obs: Any  # [..., Do] float32; the terminal observation at an episode's end
    # [...] float32, factor of the value of next_obs: as stored 0 where nothing follows
    # and 1 elsewhere (also at a time limit that targets look past); as drawn from the
    # replay buffer, m chunks together, gamma^m times that
    discount: Any
    # [...] bool, the episode ended with this chunk: what its environment did next
    # belongs to another one
    ended: Any
    # arrays by name that a method stores beside, such as a start noise
    extras: dict[str, Any] = {}  # noqa: RUF012, never changed
    # arrays by name that a method drew at next_obs, such as the policy's proposals;
    # where discount is 0 they may belong to another observation
    next_extras: dict[str, Any] = {}  # noqa: RUF012, never changed
    # as drawn for a method that asks for it: the chunk that was executed at next_obs
    followed_by: "Following | None" = None


class Following(NamedTuple):
    """What was executed after a drawn transition, in the same episode."""

    action: Any  # [..., Ta * Da] float32, anything where it is not known
    known: Any  # [...] bool, False at an episode's end and for the newest transitions


class EpisodeResult(NamedTuple):
    """One finished episode."""

    seed: int  # seed of the episode's reset
    success_any: bool  # some control step was successful (robosuite's success)
    success_chunk: bool  # all control steps of some chunk were (published success)
    episode_return: float  # sum of (reward - reward_offset) over all control steps
    length: int  # control steps
    fault: bool  # physics broke; counted as a failure


class EpisodeEnds(NamedTuple):
    """What one vector step did to the episodes of all E training environments."""

    ended: Any  # [E] bool; the other fields count where it is set
    episode: Any  # [E] int32, its number, counted as they start
    success_chunk: Any  # [E] bool, all control steps of some chunk were successful
    episode_return: Any  # [E] float32, sum of (reward - reward_offset)
    # of every episode, where this step left it
    seed: Any  # [E] uint32, of its reset
    chunks: Any  # [E] int32, executed so far
