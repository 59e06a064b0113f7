"""Plays on from exact states with many first chunks, many times each.

From states of real episodes, several chunks are drawn; each is also guided and moved
by a few lengths along the critics' gradient and along a random direction. Every such
first chunk is executed and continued with the policy several times. A moved chunk
meets the same continuing noise as the chunk that it was moved from, so that their
difference is not buried under the noise of two independent futures.
"""

import math
from collections.abc import Callable

import numpy as np

from dynvgd_jax.audit.records import FirstChunks, Outcomes, Plan, States, Subject
from dynvgd_jax.envs.base import VectorEnv
from dynvgd_jax.envs.rollout import (
    AUDIT_STREAM,
    Books,
    chunk_reward,
    episode_seed,
    max_chunks,
    require_finite,
)

# Uses of the audit's noise; each is a stream of its own.
EPISODE_NOISE, FIRST_NOISE, FUTURE_NOISE = range(3)
# Uses of NumPy's generator.
_CHOICE, _DIRECTIONS = range(2)

# Ends of a rollout that knows no time limit, see `horizon`.
REST = 0.01  # gamma to the power of the chunks played
MOST_EPISODES = 4

Progress = Callable[[int], None]  # how many are done


def collect_states(
    env: VectorEnv, act: Callable, plan: Plan, progress: Progress
) -> States:
    """Returns one state of each of S episodes, uniform over its chunks.

    Only chunks before the episode's first wholly successful one count: afterwards
    there is nothing left to decide.

    Args:
      env: any number of environments; they are reset.
      act: `(obs, ids, chunk_index) -> chunk`, the policy whose states are wanted.
      plan: of the audit.
      progress: told how many states are there.
    """
    limit = max_chunks(env)
    seeds = [episode_seed(AUDIT_STREAM, plan.seed, i) for i in range(plan.states)]
    seeds = np.array(seeds, np.uint32)
    # Chunk c replaces the candidate with probability 1 / (c + 1): uniform over all
    # chunks so far, though nobody knows beforehand how many there will be.
    draws = _generator(plan.seed, _CHOICE).random((plan.states, limit))
    rows: list[dict[str, np.ndarray] | None] = [None] * plan.states
    obs_rows = np.zeros((plan.states, env.sizes.obs_dim), np.float32)
    chosen = np.zeros(plan.states, np.int32)
    for start in range(0, plan.states, env.num_envs):
        wave = seeds[start : start + env.num_envs]
        slots = np.arange(len(wave))
        books = Books.empty(env.num_envs)
        for slot, seed in enumerate(wave):
            books.open(slot, start + slot, int(seed))
        obs = np.zeros((env.num_envs, env.sizes.obs_dim), np.float32)
        obs[slots] = env.reset(slots, wave.astype(np.int64))
        ids = np.resize(wave, env.num_envs)
        for index in range(limit):
            taken = slots[draws[start + slots, index] * (index + 1) < 1]
            if len(taken):
                hidden = env.get_state()
                for slot in taken:
                    rows[start + slot] = {k: v[slot].copy() for k, v in hidden.items()}
                obs_rows[start + taken], chosen[start + taken] = obs[taken], index
            chunks = np.asarray(act(obs, ids, np.full(env.num_envs, index, np.int32)))
            result = env.step(slots, chunks[slots])
            require_finite(result, slots, books)
            books.enter(slots, result, plan.reward_offset)
            obs[slots] = result.obs
            slots = slots[~(result.whole_success | result.ended)]
            if not len(slots):
                break
        progress(start + len(wave))
    hidden = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    return States(obs_rows, hidden, chosen, seeds)


def draw_first_chunks(
    subject: Subject, states: States, plan: Plan, batch: int
) -> FirstChunks:
    """Returns the first chunks of all branches; moved ones are clipped to [-1, 1].

    Args:
      subject: policies and critics.
      states: where the chunks are drawn.
      plan: of the audit.
      batch: rows per call of the subject, so that each function compiles once.
    """
    count = plan.states * plan.chunks
    obs = np.repeat(states.obs, plan.chunks, axis=0)
    ids = np.arange(count, dtype=np.uint32)
    index = np.repeat(states.chunk_index, plan.chunks)

    def both(obs, ids, index):
        noise = subject.noise(FIRST_NOISE, ids, index)
        return subject.decode(obs, noise), subject.steer(obs, noise)

    plain, guided = in_batches(both, batch, obs, ids, index)
    (gradient,) = in_batches(
        lambda o, c: (subject.judge(o, c).gradient,), batch, obs, plain
    )
    directions = {
        "gradient": _unit(gradient),
        "random": _unit(_generator(plan.seed, _DIRECTIONS).normal(size=plain.shape)),
    }
    moved = [
        np.clip(plain + length * directions[kind], -1, 1)
        for kind, length in plan.variants()[2:]
    ]
    chunk = np.stack([plain, guided, *moved], axis=1).astype(np.float32)
    num_variants = chunk.shape[1]

    def judge(obs, chunk):
        judgement = subject.judge(obs, chunk)
        return np.asarray(judgement.q).T, judgement.value, judgement.weight

    flat = chunk.reshape(-1, *chunk.shape[2:])
    judged = in_batches(judge, batch, np.repeat(obs, num_variants, axis=0), flat)
    shape = (plan.states, plan.chunks, num_variants)
    q, value, weight = (x.reshape(*shape, *x.shape[1:]) for x in judged)
    difference = (chunk - chunk[:, :1]).reshape(count, num_variants, -1)
    return FirstChunks(
        chunk=chunk.reshape(*shape, *chunk.shape[2:]),
        moved=np.linalg.norm(difference, axis=-1).reshape(shape),
        q=q,
        value=value,
        weight=weight,
    )


def play(
    env: VectorEnv,
    act: Callable,
    states: States,
    first: FirstChunks,
    plan: Plan,
    progress: Progress,
) -> Outcomes:
    """Executes every first chunk M times and continues until the time limit.

    As in training, the time limit and a fault end an episode and nothing is added for
    what would have followed; so does success where the plan says so. Past the time
    limit, where the plan says so, a rollout goes on for `horizon` chunks.

    Args:
      env: any number of environments; their states are overwritten.
      act: `(obs, ids, chunk_index) -> chunk`, the policy that continues.
      states: where the branches start.
      first: their first chunks.
      plan: of the audit.
      progress: told how many rollouts are done.
    """
    shape = (*first.value.shape, plan.repeats)
    state, draw, _, repeat = (axis.ravel() for axis in np.indices(shape))
    ids = np.uint32((state * plan.chunks + draw) * plan.repeats + repeat)
    chunk = np.repeat(first.chunk.reshape(-1, *first.chunk.shape[3:]), plan.repeats, 0)
    jobs = len(state)
    outcomes = Outcomes(*(np.zeros(jobs, kind) for kind in (float, bool, int, bool)))
    # Neighbours end at about the same time, so that few environments wait.
    order = np.argsort(states.chunk_index[state], kind="stable")
    for start in range(0, jobs, env.num_envs):
        wave = order[start : start + env.num_envs]
        _play_wave(
            env, act, states, plan, state[wave], ids[wave], chunk[wave], outcomes, wave
        )
        progress(start + len(wave))
    return Outcomes(*(values.reshape(shape) for values in outcomes))


def horizon(gamma: float, episode_chunks: int) -> int:
    """Returns for how many chunks a rollout without a time limit is played.

    Until what would follow counts less than REST of a return that lasts for ever, but
    no more than MOST_EPISODES times an episode: a gamma near 1 looks further.
    """
    most = MOST_EPISODES * episode_chunks
    return min(most, math.ceil(math.log(REST) / math.log(gamma))) if gamma < 1 else most


def _play_wave(env, act, states, plan, state, ids, chunk, outcomes, wave) -> None:
    """Plays as many rollouts as there are environments; fills their `outcomes`."""
    slots = np.arange(len(wave))
    padded = np.concatenate([slots, np.zeros(env.num_envs - len(wave), int)])
    rows = state[padded]
    env.set_state({key: value[rows] for key, value in states.hidden.items()})
    obs = states.obs[rows]
    books = Books.empty(env.num_envs)
    for slot in slots:
        books.open(slot, int(wave[slot]), int(states.episode_seed[rows[slot]]))
    books.chunks[:] = states.chunk_index[rows]
    last = np.full(env.num_envs, max_chunks(env))
    if plan.past_time_limit:
        last = books.chunks + horizon(plan.gamma, max_chunks(env))
    chunks, discount = chunk[padded], 1.0
    while len(slots):
        result = env.step(slots, chunks[slots])
        require_finite(result, slots, books)
        books.enter(slots, result, plan.reward_offset)
        obs[slots] = result.obs
        reward = chunk_reward(result.reward, plan.reward_offset, result.skipped)
        jobs = wave[slots]
        outcomes.discounted[jobs] += discount * reward
        outcomes.success[jobs] |= result.whole_success
        outcomes.length[jobs] += 1
        outcomes.fault[jobs] = result.fault
        discount *= plan.gamma
        ended = (books.chunks[slots] >= last[slots]) | result.ended
        if plan.end_at_success:
            ended |= result.whole_success
        slots = slots[~ended]
        if len(slots):
            chunks = np.asarray(act(obs, ids[padded], books.chunks))


def in_batches(fn: Callable, batch: int, *arrays: np.ndarray) -> list[np.ndarray]:
    """Returns `fn(*arrays)`, a tuple of arrays, computed `batch` rows at a time.

    The last batch is filled up by repeating its first row: one shape, one program.
    """
    count, parts = len(arrays[0]), []
    for start in range(0, count, batch):
        rows = np.arange(start, min(start + batch, count))
        padded = np.concatenate([rows, np.full(batch - len(rows), start)])
        results = fn(*(array[padded] for array in arrays))
        parts.append([np.asarray(result)[: len(rows)] for result in results])
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def policy_act(decode: Callable, noise: Callable, use: int) -> Callable:
    """Returns `act(obs, ids, chunk_index)`: `decode` from the noise of that use."""

    def act(obs: np.ndarray, ids: np.ndarray, chunk_index: np.ndarray):
        return decode(obs, noise(use, ids, chunk_index))

    return act


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Chunks `[B, Ta, Da]` scaled to norm 1; zero stays zero."""
    norm = np.sqrt(np.sum(np.square(vectors), axis=(1, 2), keepdims=True))
    return vectors / np.where(norm > 0, norm, 1.0)


def _generator(seed: int, use: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([AUDIT_STREAM, seed, use]))
