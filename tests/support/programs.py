"""The published programs, traced on shapes alone: no memory, no computation."""

import importlib

import jax
import jax.numpy as jnp

from dynvgd_jax.diffusion.policy_files import load_policy
from dynvgd_jax.replay import ring as replay_lib
from dynvgd_jax.steering.methods import build_method, state_shapes
from dynvgd_jax.training.programs import call_on_ring
from dynvgd_jax.training.replay_memory import make_draw


def published(task, ddim_steps):
    """The configuration at its published size, and the built-in policy."""
    module = importlib.import_module(f"configs.{task}_ddim{ddim_steps}")
    return module.get_config(), load_policy(f"builtin:{task}")


def update_and_inputs(config, policy, stored=1000):
    """The training call as a run on one device compiles it, and its inputs' shapes."""
    method = build_method(config, policy)
    flat_dim = policy.chunk_len * policy.action_dim
    extras = (method.extras, method.next_extras)
    example = replay_lib.example_transition(policy.obs_dim, flat_dim, *extras)
    key = jax.eval_shape(lambda: jax.random.key(0))
    replay = jax.eval_shape(lambda: replay_lib.init_replay(stored, example))
    inputs = (state_shapes(method), replay, policy.params, key, jnp.int32(0))
    call = call_on_ring(method, make_draw(config))
    return jax.jit(call, donate_argnums=0), inputs
