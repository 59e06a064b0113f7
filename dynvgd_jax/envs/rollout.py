"""Steps environments with any policy and keeps the books of their episodes."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.types import (
    ChunkResult,
    EpisodeEnds,
    EpisodeResult,
    Transition,
)
from dynvgd_jax.envs.base import VectorEnv

# (obs [n, Do], seeds [n] uint32, chunk_index [n] int32) -> chunk [n, Ta, Da]
ActFn = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


# Streams of episode seeds: training with seed 1 never sees an episode of evaluation
# with seed 1.
TRAIN_STREAM, EVAL_STREAM, AUDIT_STREAM = 0, 1, 2


def episode_seed(stream: int, seed: int, episode: int) -> int:
    """Returns the reset seed, below 2**31, of a stream's `episode`-th episode.

    Counted in the order in which episodes start, so that episode 17 is the same episode
    however many environments run side by side.
    """
    sequence = np.random.SeedSequence([stream, seed, episode])
    return int(sequence.generate_state(1)[0] >> 1)


def chunk_reward(
    reward: np.ndarray, reward_offset: float, skipped: np.ndarray | None = None
) -> np.ndarray:
    """Returns the learner's reward `[n]`: the chunk's sum of `reward - offset`.

    Args:
      reward: `[n, Ta]` of each control step.
      reward_offset: what a control step costs.
      skipped: `[n]` last control steps that were not executed and count nothing.
    """
    less = reward - reward_offset
    if skipped is not None:
        length = less.shape[1]
        less[np.arange(length) >= length - skipped[:, None]] = 0.0
    return np.sum(less, axis=1, dtype=np.float64).astype(np.float32)


def require_finite(result: ChunkResult, indices: np.ndarray, books: "Books") -> None:
    """Raises UserError where environments returned NaN or infinite values.

    One such transition in the replay buffer would spoil the critics for good. (Physics
    that breaks inside robosuite is a `fault`, which ends the episode as failed.)
    """
    sound = np.isfinite(result.obs).all(axis=1) & np.isfinite(result.reward).all(axis=1)
    for index in np.asarray(indices)[~sound]:
        raise UserError(
            f"environment {index} returned an observation or reward that is not finite "
            f"(episode seed {books.seed[index]}, chunk {books.chunks[index]}); nothing "
            "of this step was stored; mend the environment"
        )


class Books(NamedTuple):
    """Running totals of the episodes under way, one entry an environment."""

    episode: np.ndarray  # [N] int64, number of the episode, -1 before the first
    seed: np.ndarray  # [N] uint32, its reset seed
    chunks: np.ndarray  # [N] int32, chunks executed so far
    episode_return: np.ndarray  # [N] float64, sum of (reward - offset)
    success_any: np.ndarray  # [N] bool
    success_chunk: np.ndarray  # [N] bool

    @classmethod
    def empty(cls, num_envs: int) -> "Books":
        return cls(
            episode=np.full(num_envs, -1, np.int64),
            seed=np.zeros(num_envs, np.uint32),
            chunks=np.zeros(num_envs, np.int32),
            episode_return=np.zeros(num_envs, np.float64),
            success_any=np.zeros(num_envs, bool),
            success_chunk=np.zeros(num_envs, bool),
        )

    def open(self, index: int, episode: int, seed: int) -> None:
        """Starts the books of a new episode in environment `index`."""
        self.episode[index], self.seed[index], self.chunks[index] = episode, seed, 0
        self.episode_return[index] = 0.0
        self.success_any[index] = self.success_chunk[index] = False

    def enter(self, indices: np.ndarray, result: ChunkResult, offset: float) -> None:
        """Adds one chunk of the environments `indices` to their books."""
        self.chunks[indices] += 1
        self.episode_return[indices] += chunk_reward(
            result.reward, offset, result.skipped
        )
        self.success_any[indices] |= result.success.any(axis=1)
        self.success_chunk[indices] |= result.whole_success

    def close(
        self, index: int, chunk_len: int, fault: bool, skipped: int = 0
    ) -> EpisodeResult:
        """Returns the finished episode; one whose physics broke has failed.

        `skipped` control steps of its last chunk were not executed.
        """
        return EpisodeResult(
            seed=int(self.seed[index]),
            success_any=bool(self.success_any[index]) and not fault,
            success_chunk=bool(self.success_chunk[index]) and not fault,
            episode_return=float(self.episode_return[index]),
            length=int(self.chunks[index]) * chunk_len - int(skipped),
            fault=bool(fault),
        )


def run_episodes(
    env: VectorEnv, act_fn: ActFn, seeds: np.ndarray, reward_offset: float = 1.0
) -> Iterator[EpisodeResult]:
    """Yields one result per seed, in the order of `seeds`, `num_envs` at a time.

    Every call of `act_fn` sees `num_envs` rows, so that it compiles once: in the last
    wave the missing rows repeat the first one and their chunks are not executed.
    """
    limit = max_chunks(env)
    for start in range(0, len(seeds), env.num_envs):
        wave = np.asarray(seeds[start : start + env.num_envs], np.uint32)
        books = Books.empty(env.num_envs)
        for index, seed in enumerate(wave):
            books.open(index, start + index, int(seed))
        rows = np.arange(len(wave))
        padded = np.concatenate([rows, np.zeros(env.num_envs - len(wave), int)])
        obs = env.reset(rows, wave.astype(np.int64))
        alive, fault = np.ones(len(wave), bool), np.zeros(len(wave), bool)
        skipped = np.zeros(len(wave), int)
        for chunk_index in range(limit):
            chunk_indices = np.full(env.num_envs, chunk_index, np.int32)
            chunks = np.asarray(act_fn(obs[padded], wave[padded], chunk_indices))
            running = rows[alive]
            result = env.step(running, chunks[running])
            require_finite(result, running, books)
            books.enter(running, result, reward_offset)
            obs[running] = result.obs
            alive[running[result.ended]] = False
            fault[running], skipped[running] = result.fault, result.skipped
            if not alive.any():
                break
        for index in rows:
            yield books.close(index, env.sizes.chunk_len, fault[index], skipped[index])


def max_chunks(env: VectorEnv) -> int:
    """Returns the chunks of one episode; the last may run past the time limit."""
    return -(-env.sizes.max_episode_env_steps // env.sizes.chunk_len)


def evaluation_seeds(seed: int, episodes: int) -> np.ndarray:
    """Returns the reset seeds `[episodes]` that belong to `eval.seed`."""
    return np.array(
        [episode_seed(EVAL_STREAM, seed, i) for i in range(episodes)], np.uint32
    )


def evaluate(
    env: VectorEnv,
    act_fn: ActFn,
    seeds: np.ndarray,
    *,
    reward_offset: float = 1.0,
    progress: Callable[[EpisodeResult], None] | None = None,
) -> list[EpisodeResult]:
    """Returns one result per seed, in order; `progress` is told of each as it ends."""
    results = []
    for result in run_episodes(env, act_fn, seeds, reward_offset):
        results.append(result)
        if progress is not None:
            progress(result)
    return results


class Collector:
    """Training rollouts: steps all environments, resets those that end.

    Holds the state that a resumed run needs (`books`, `obs`). Environment e of all N
    plays the episodes e, e + N, e + 2N, ..., whichever process steps it.
    """

    def __init__(
        self,
        env: VectorEnv,
        run_seed: int,
        reward_offset: float,
        *,
        first_env: int = 0,
        num_envs: int | None = None,
        gamma: float = 1.0,
        end_at_success: bool = False,
        bootstrap_at_time_limit: bool = False,
    ):
        """Starts the first episodes.

        Args:
          env: this process's environments.
          run_seed: chooses the episodes.
          reward_offset: subtracted from every control step's reward.
          first_env: number of `env`'s first environment among those of all processes.
          num_envs: of all processes; None is `env`'s own.
          gamma: discount per chunk, of what a broken episode misses.
          end_at_success: a wholly successful chunk ends its episode, as done.
          bootstrap_at_time_limit: the time limit ends an episode, but not as done.
        """
        self.env = env
        self.end_at_success = end_at_success
        self.bootstrap_at_time_limit = bootstrap_at_time_limit
        self.run_seed = run_seed
        self.gamma = gamma
        self.reward_offset = reward_offset
        self.first_env = first_env
        self.num_envs = env.num_envs if num_envs is None else num_envs
        self.books = Books.empty(env.num_envs)
        self.obs = np.zeros((env.num_envs, env.sizes.obs_dim), np.float32)
        self._chunks, self._extras = None, {}  # of the step under way
        self._reset(np.arange(env.num_envs))

    def _reset(self, indices: np.ndarray) -> None:
        for index in indices:
            last = self.books.episode[index]
            first = self.first_env + index
            episode = int(first if last < 0 else last + self.num_envs)
            seed = episode_seed(TRAIN_STREAM, self.run_seed, episode)
            self.books.open(index, episode, seed)
        seeds = self.books.seed[indices].astype(np.int64)
        self.obs[indices] = self.env.reset(indices, seeds)

    def step_async(
        self, chunks: np.ndarray, extras: dict[str, np.ndarray] | None = None
    ) -> None:
        """Starts to execute `chunks [N, Ta, Da]`; `extras [N, ...]` go with them."""
        self._chunks, self._extras = chunks, extras or {}
        self.env.step_async(np.arange(self.env.num_envs), chunks)

    def step_wait(self) -> tuple[Transition, list[EpisodeResult], EpisodeEnds]:
        """Returns N transitions and the episodes that the started step finished.

        What the task itself ended is stored with `discount` 0. So is the time limit, as
        the published code does, unless `bootstrap_at_time_limit`; and a wholly
        successful chunk with `end_at_success`. The next observation of an episode's end
        is the terminal one. A chunk whose physics broke is stored with the return of an
        episode that earns nothing any more.
        """
        everyone = np.arange(self.env.num_envs)
        chunks, result = self._chunks, self.env.step_wait()
        require_finite(result, everyone, self.books)
        self.books.enter(everyone, result, self.reward_offset)
        done = result.ended.copy()
        if self.end_at_success:
            done |= result.whole_success
        over = done | (self.books.chunks >= max_chunks(self.env))
        if not self.bootstrap_at_time_limit:
            done = over
        reward = chunk_reward(result.reward, self.reward_offset, result.skipped)
        reward += np.where(result.fault, self._missed(), 0.0).astype(np.float32)
        transition = Transition(
            obs=self.obs.copy(),
            action=chunks.reshape(len(chunks), -1).astype(np.float32),
            reward=reward,
            next_obs=result.obs.copy(),
            discount=1.0 - done.astype(np.float32),
            ended=over,
            extras=self._extras,
        )
        self.obs = result.obs.copy()
        ends = EpisodeEnds(
            ended=over.copy(),
            episode=self.books.episode.astype(np.int32),
            success_chunk=self.books.success_chunk & ~result.fault,
            episode_return=self.books.episode_return.astype(np.float32),
            seed=self.books.seed.copy(),
            chunks=self.books.chunks.copy(),
        )
        ended = [
            self.books.close(
                i, self.env.sizes.chunk_len, bool(result.fault[i]), result.skipped[i]
            )
            for i in np.flatnonzero(over)
        ]
        if over.any():
            self._reset(np.flatnonzero(over))
        return transition, ended, ends

    def _missed(self) -> np.ndarray:
        """Return `[N]` after this chunk of an episode that earns nothing any more.

        Its steps until the time limit, or without end where targets look past it.
        """
        chunk = -self.reward_offset * self.env.sizes.chunk_len
        if self.bootstrap_at_time_limit and self.gamma < 1.0:
            left = np.full(self.env.num_envs, np.inf)
        else:
            left = np.maximum(max_chunks(self.env) - self.books.chunks, 0)
        if self.gamma == 1.0:
            return chunk * left
        # 0 ** 0 is 1 here, and gamma ** inf is 0
        return chunk * self.gamma * (1.0 - self.gamma**left) / (1.0 - self.gamma)

    def step(
        self, chunks: np.ndarray
    ) -> tuple[Transition, list[EpisodeResult], EpisodeEnds]:
        """Executes `chunks [N, Ta, Da]`; returns as `step_wait`."""
        self.step_async(chunks)
        return self.step_wait()
