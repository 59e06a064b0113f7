"""What a method draws once for every observation that training visits."""

from collections.abc import Sequence

import jax
import numpy as np

from dynvgd_jax.core.types import EpisodeEnds, Transition
from dynvgd_jax.steering.base import ActInputs
from dynvgd_jax.training.state import Job, RunState, SeedState

# Offline observations that are decoded at once.
OFFLINE_ROWS = 512

Stepped = list[tuple[Transition, EpisodeEnds]]
Drawn = dict[str, np.ndarray]


def acting_inputs(run: RunState) -> list[ActInputs]:
    """Returns what training acts on, one entry a seed, with what was proposed there.

    A run that has just begun or was resumed draws it now: it depends on observation,
    episode and chunk alone, so that it is what was drawn before.
    """
    inputs = [seed.act_inputs(run.env_steps) for seed in run.seeds]
    if run.job.method.propose is None:
        return inputs
    if run.seeds[0].proposed is None:
        for seed, drawn in zip(run.seeds, _propose(run, inputs), strict=True):
            seed.proposed = drawn
    return [
        own._replace(proposed=seed.proposed)
        for own, seed in zip(inputs, run.seeds, strict=True)
    ]


def with_proposals(run: RunState, stepped: Stepped) -> Stepped:
    """Returns the new transitions with what was drawn at their next observation.

    Of an ended episode that is the terminal one, where only the time limit ended it:
    targets look at it, while acting goes on from the next episode's first, so that both
    are drawn. After a done no target looks, and one draw is enough: such a transition
    has what belongs to the next episode's first observation.
    """
    reached = [
        seed.act_inputs(run.env_steps)._replace(**_where_to_look(seed, *own))
        for seed, own in zip(run.seeds, stepped, strict=True)
    ]
    there = here = _propose(run, reached)
    cut = [ends.ended & (transition.discount > 0) for transition, ends in stepped]
    if any(rows.any() for rows in cut):
        first = _propose(run, [seed.act_inputs(run.env_steps) for seed in run.seeds])
        here = [
            {name: _where(rows, new[name], old[name]) for name in old}
            for new, old, rows in zip(first, there, cut, strict=True)
        ]
    for seed, drawn in zip(run.seeds, here, strict=True):
        seed.proposed = drawn
    example = run.job.example.next_extras
    return [
        (transition._replace(next_extras=as_stored(drawn, example)), ends)
        for (transition, ends), drawn in zip(stepped, there, strict=True)
    ]


def _where_to_look(
    seed: SeedState, transition: Transition, ends: EpisodeEnds
) -> dict[str, np.ndarray]:
    """Observation, episode and chunk of every environment whose draw is needed first.

    The next observation of the transition, or where it is done the one to act from.
    """
    done, now = transition.discount == 0, seed.collector
    pairs = {
        "obs": (now.obs, transition.next_obs),
        "seeds": (now.books.seed, ends.seed),
        "chunk_index": (now.books.chunks, ends.chunks),
    }
    return {name: _where(done, *pair) for name, pair in pairs.items()}


def offline_with_proposals(job: Job) -> Transition:
    """Returns the offline transitions with what belongs to their next observations.

    Its draws depend on a transition's number alone: all seeds have the same.
    """
    transitions, method = job.offline.transitions, job.method
    if method.propose is None:
        return transitions
    propose, params = jax.jit(method.propose), jax.device_put(job.policy.params)
    count, found = len(transitions.reward), []
    with job.progress.part("decoding proposals of offline data", count) as part:
        for first in range(0, count, OFFLINE_ROWS):
            # the last rows are filled up, so that it compiles once
            numbers = np.arange(first, first + OFFLINE_ROWS)
            inputs = ActInputs(
                obs=transitions.next_obs[np.minimum(numbers, count - 1)],
                key=jax.random.key(0),
                seeds=numbers.astype(np.uint32),
                chunk_index=np.zeros(OFFLINE_ROWS, np.int32),
            )
            drawn = jax.device_get(propose(params, inputs))
            found.append(as_stored(drawn, job.example.next_extras))
            part.update(min(first + OFFLINE_ROWS, count))
    together = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *found)
    return transitions._replace(next_extras=together)


def as_stored(drawn: Drawn, example: Drawn) -> Drawn:
    """Returns arrays in the dtypes in which they are kept."""
    return {name: leaf.astype(example[name].dtype) for name, leaf in drawn.items()}


def _where(rows: np.ndarray, new: np.ndarray, old: np.ndarray) -> np.ndarray:
    return np.where(rows.reshape(-1, *[1] * (new.ndim - 1)), new, old)


def _propose(run: RunState, inputs: Sequence[ActInputs]) -> list[Drawn]:
    """Of each seed, on the host."""
    collect = run.job.placement.collect
    drawn = jax.device_get(run.job.programs.propose(inputs))
    drawn = {name: collect(leaf) for name, leaf in drawn.items()}
    return [
        {name: leaf[place] for name, leaf in drawn.items()}
        for place in range(len(run.seeds))
    ]
