"""Of several chunks the one of highest value, by hand."""

import jax.numpy as jnp
import numpy as np

from dynvgd_jax.steering.choice import best_of


def test_each_row_takes_its_own_best_candidate():
    # Two observations, three candidates of one action; value: observation x action.
    obs = jnp.array([[2.0], [-1.0]])
    chunks = jnp.array([[1.0, 3.0, 2.0], [4.0, 0.5, 6.0]]).reshape(2, 3, 1, 1)
    chunk, gain = best_of(lambda o, flat: o[:, 0] * flat[:, 0], obs, chunks)
    # Values 2, 6, 4 and -4, -0.5, -6: best 6 and -0.5, means 4 and -3.5.
    np.testing.assert_array_equal(chunk, [[[3.0]], [[0.5]]])
    np.testing.assert_allclose(gain, ((6 - 4) + (-0.5 + 3.5)) / 2)


def test_of_equal_candidates_the_first_is_taken_and_nothing_gained():
    chunks = jnp.array([[1.0, 2.0]]).reshape(1, 2, 1, 1)
    chunk, gain = best_of(lambda o, flat: 0 * flat[:, 0], jnp.zeros((1, 3)), chunks)
    np.testing.assert_array_equal(chunk, [[[1.0]]])
    assert gain == 0
