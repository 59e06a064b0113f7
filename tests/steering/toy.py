"""A noise predictor simple enough to run in JAX and in NumPy alike."""

import jax.numpy as jnp
import numpy as np

from configs import base
from dynvgd_jax.core.types import Transition
from dynvgd_jax.diffusion.ddim import make_ddim
from dynvgd_jax.diffusion.schedule import cosine_schedule, ddim_schedule
from dynvgd_jax.replay.ring import example_transition
from dynvgd_jax.steering.base import ActInputs, Setting

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


def schedule(ddim_steps=4):
    return ddim_schedule(cosine_schedule(20), ddim_steps)


def setting(ddim_steps=4, average=lambda tree: tree):
    """What a method is built for: this predictor, DDIM, the published configuration."""
    denoiser = make_ddim(make_eps_fn, schedule(ddim_steps))
    return Setting(base.get_config(), denoiser, OBS_DIM, CHUNK, average)


def inputs(obs, noise, env_steps=0):
    """Acting from exactly this noise."""
    return ActInputs(obs, None, None, None, env_steps=env_steps, noise=noise)


def example():
    return example_transition(OBS_DIM, FLAT)


def transitions(seed, *shape):
    """Random ones as stored, on the host."""
    rng = np.random.default_rng(seed)
    obs = np.float32(rng.normal(size=(*shape, OBS_DIM)))
    return Transition(
        obs=obs,
        action=np.float32(rng.uniform(-1, 1, (*shape, FLAT))),
        reward=np.float32(rng.normal(size=shape) - 2),
        next_obs=np.float32(rng.normal(size=(*shape, OBS_DIM))),
        discount=np.float32(rng.random(shape) >= 0.2),
        ended=rng.random(shape) < 0.2,
    )
