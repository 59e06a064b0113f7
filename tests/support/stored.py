"""Transitions for tests of replay buffers: recognisable, of any extras."""

import ml_dtypes
import numpy as np

from dynvgd_jax.core.types import Transition
from dynvgd_jax.replay.ring import example_transition

OBS_DIM, FLAT_DIM = 3, 2
EXAMPLE = example_transition(OBS_DIM, FLAT_DIM)

# What methods may store beside a transition: any dtype and shape.
EXTRAS = {
    "bits": np.zeros((), bool),
    "brain": np.zeros((3,), ml_dtypes.bfloat16),
    "bytes": np.zeros((2, 1, 2), np.uint8),
    "count": np.zeros((), np.int32),
    "half": np.zeros((1,), np.float16),
    "noise": np.zeros((4, 2), np.float32),
    "nothing": np.zeros((0,), np.float32),
}
EXAMPLE_WITH_EXTRAS = example_transition(OBS_DIM, FLAT_DIM, EXTRAS)
EXAMPLE_WITH_BOTH = example_transition(OBS_DIM, FLAT_DIM, EXTRAS, EXTRAS)


def numbered(numbers):
    """Transitions whose every field spells its number; odd ones end an episode."""
    n = np.asarray(numbers, np.float32)
    return Transition(
        obs=np.repeat(n[:, None], OBS_DIM, 1),
        action=np.repeat(n[:, None], FLAT_DIM, 1) + 100,
        reward=n + 200,
        next_obs=np.repeat(n[:, None], OBS_DIM, 1) + 300,
        discount=1 - n % 2,
        ended=n % 2 == 1,
    )


def random_extras(seed, count):
    """Of `count` transitions: any bits, but for NaNs, of which there is no telling."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, like in EXTRAS.items():
        shape = (count, *like.shape)
        if like.dtype == bool:
            found[name] = rng.random(shape) < 0.5
            continue
        nbytes = int(np.prod(shape)) * like.dtype.itemsize
        values = np.frombuffer(rng.bytes(nbytes), like.dtype).reshape(shape)
        with np.errstate(invalid="ignore"):
            nan = np.isnan(values.astype(np.float64))
        found[name] = np.where(nan, like.dtype.type(-0.0), values)
    return found


def assert_same_bits(found, expected):
    """Compares trees leaf by leaf: dtype, shape and every bit."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


def random_history(seed, steps, envs):
    """`steps` vector steps of random episodes of `envs` environments.

    A reset leads to the very observation at which the episode before it ended, so that
    nothing but `ended` tells episodes apart. `obs` and `reward` spell the number.
    """
    rng = np.random.default_rng(seed)
    history = []
    for step in range(steps):
        numbers = envs * step + np.arange(envs)
        over, done = rng.random((2, envs)) < [[0.2], [0.5]]
        fresh = numbered(numbers)._replace(
            discount=1 - np.float32(over & done),
            ended=over,
            next_obs=np.repeat(np.float32(numbers + envs)[:, None], OBS_DIM, 1),
        )
        history.append(fresh)
    return history


def assert_followed(batch, total):
    """What `batch`, drawn from a random history of `total`, says was executed next."""
    number = batch.next_obs[..., 0]  # of the next transition, if there is one
    known = ~batch.ended & (number < total)
    assert not known.all()
    np.testing.assert_array_equal(batch.followed_by.known, known)
    np.testing.assert_array_equal(
        batch.followed_by.action[known], np.repeat(number[known][:, None], 2, 1) + 100
    )


def walked(history, number, steps, envs, gamma):
    """The n-step transition of `number` by a walk through its episode.

    Args:
      history: from `random_history`.
      number: of the transition it begins with.
      steps: n.
      envs: environments by turns.
      gamma: discount per chunk.

    Returns: reward, discount and next observation.
    """
    total = envs * len(history)
    reward, discount = 0.0, 1.0
    for _ in range(steps):
        row = history[number // envs]
        index = number % envs
        reward += discount * row.reward[index]
        discount *= gamma
        if row.ended[index] or number + envs >= total:
            break
        number += envs
    return reward, discount * row.discount[index], row.next_obs[index]
