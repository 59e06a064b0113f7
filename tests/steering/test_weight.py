"""The dynamic weight by hand, and its limits."""

import jax.numpy as jnp
import numpy as np

from configs import base
from dynvgd_jax.steering.weight import (
    Weighting,
    dynamic_weight,
    local_weight,
    weighting,
)


def test_weight_by_hand():
    # Two samples, four critics: {1, 2, 3, 4} has sample variance 5/3, {2, 2, 2, 2} 0.
    q = jnp.array([[1.0, 2.0], [2.0, 2.0], [3.0, 2.0], [4.0, 2.0]])
    options = Weighting(beta=2.0, c_local=5.0, c_global=100.0)
    w = dynamic_weight(q, jnp.float32(10.0), options)
    # exp(-2 * 1.2909944 / 5) * exp(-2 * 10 / 100) = 0.5966660 * 0.8187308
    np.testing.assert_allclose(w, [0.4885088, 0.8187308], rtol=1e-6)
    np.testing.assert_allclose(local_weight(q, options), [0.5966660, 1], rtol=1e-6)


def test_weight_limits():
    q = jnp.array([[0.0, 0.0], [1e4, 0.0]])
    options = Weighting()
    np.testing.assert_allclose(
        dynamic_weight(q, jnp.float32(0.0), options), [1e-3, 1.0], rtol=1e-6
    )
    np.testing.assert_allclose(
        dynamic_weight(q, jnp.float32(1e6), options), 1e-3, rtol=1e-6
    )
    one_critic = jnp.array([[3.0, -9.0]])
    np.testing.assert_array_equal(
        dynamic_weight(one_critic, jnp.float32(0.0), options), [1.0, 1.0]
    )


def test_every_constant_comes_from_its_field():
    config = base.get_config()
    assert weighting(config) == Weighting()  # the published ones
    config.guidance.beta = 2.0
    config.guidance.c_local, config.guidance.c_global = 3.0, 4.0
    assert weighting(config) == Weighting(beta=2.0, c_local=3.0, c_global=4.0)
