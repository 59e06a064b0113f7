"""The published programs, traced on shapes alone: no memory, no computation."""

import importlib

import jax
import jax.numpy as jnp

from dynvgd_jax.agent import build_method
from dynvgd_jax.diffusion.policy import load_policy
from dynvgd_jax.replay import ring as replay_lib


def published(task, ddim_steps):
    """The configuration at its published size, and the built-in policy."""
    module = importlib.import_module(f"configs.{task}_ddim{ddim_steps}")
    return module.get_config(), load_policy(f"builtin:{task}")


def update_and_inputs(config, policy, stored=1000):
    """The training call as `train.py` compiles it, and its inputs as shapes."""
    method = build_method(config, policy)
    flat_dim = policy.chunk_len * policy.action_dim
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(method.init, key)
    replay = jax.eval_shape(
        lambda: replay_lib.init_replay(stored, policy.obs_dim, flat_dim)
    )
    inputs = (state, replay, policy.params, key, jnp.int32(0))
    return jax.jit(method.update, donate_argnums=0), inputs
