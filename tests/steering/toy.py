"""A noise predictor simple enough to run in JAX and in NumPy alike."""

import jax.numpy as jnp
import numpy as np

OBS_DIM, CHUNK = 5, (4, 2)
FLAT = CHUNK[0] * CHUNK[1]


def weights(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=(FLAT, FLAT)) / 2,
        "obs": rng.normal(size=(OBS_DIM, FLAT)),
        "t": rng.normal(size=(1, FLAT)) / 20,
    }


def make_eps_fn(params, xp=jnp):
    """Works for params and inputs of either library; t is a scalar."""

    def eps_fn(x, t, obs):
        flat = x.reshape(len(x), -1)
        h = flat @ params["x"] + obs @ params["obs"] + t * params["t"]
        return (0.8 * xp.tanh(h) + 0.2 * flat).reshape(x.shape)

    return eps_fn


def to_jax(params):
    return {name: jnp.float32(value) for name, value in params.items()}
