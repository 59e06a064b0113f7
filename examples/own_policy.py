"""A policy network of your own, steered by the same critics: a small transformer.

    python launch.py --config=examples/own_policy.py:pretrain
    python launch.py --config=examples/own_policy.py:quick
    python -m examples.own_policy dynvgd_jax.evaluate runs/own_policy-quick-seed0

A rectified flow whose tokens are the actions of a chunk. Naming this file as the
configuration registers the kind; other commands are started through it (the last line).
docs/own_policy.md explains what each part is for.
"""

import dataclasses
import functools
import runpy
import sys

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict

from configs import square_ddim8, square_pretrain
from dynvgd_jax.diffusion.base import Kind, Spec
from dynvgd_jax.diffusion.flow import flow_loss, make_euler
from dynvgd_jax.diffusion.kinds import KINDS
from dynvgd_jax.diffusion.network import bind, sinusoidal_embedding

NAME = "flow_transformer"
MAX_SIZE = 4096  # of any number in a policy folder, before memory is taken for it


class Transformer(nn.Module):
    """Predicts the velocity of a chunk, one token an action."""

    obs_dim: int
    action_dim: int
    chunk_len: int
    width: int = 64  # a multiple of heads
    depth: int = 2
    heads: int = 4

    @nn.compact
    def __call__(self, x_t, t, obs):
        """Returns `[B, Ta, Da]` as `x_t`, for t `[]` or `[B]` and obs `[B, Do]`."""
        time = sinusoidal_embedding(100.0 * jnp.atleast_1d(t), 32)
        seen = nn.Dense(self.width)(time) + nn.Dense(self.width)(obs)
        shape = (1, self.chunk_len, self.width)
        place = self.param("place", nn.initializers.normal(0.02), shape)
        h = nn.Dense(self.width)(x_t) + place + seen[:, None]
        for _ in range(self.depth):
            y = nn.LayerNorm()(h)
            h = h + nn.MultiHeadDotProductAttention(self.heads)(y, y)
            y = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(h)))
            h = h + nn.Dense(self.width)(y)
        return nn.Dense(self.action_dim)(nn.LayerNorm()(h))


FIELDS = [f.name for f in dataclasses.fields(Transformer)]
FIELDS = [name for name in FIELDS if name not in ("parent", "name")]  # Flax's own


def denoiser(spec, num_steps):
    """Returns the steps that decode a chunk, `base.Denoiser`: here Euler's."""
    return make_euler(functools.partial(bind, spec.network), num_steps)


def loss(spec, params, key, obs, actions):
    """Returns what pre-training descends, of a batch."""
    return flow_loss(bind(spec.network, params), key, obs, actions)


def init(spec, key):
    """Returns fresh parameters."""
    net = spec.network
    x_t = jnp.zeros((1, net.chunk_len, net.action_dim))
    return net.init(key, x_t, jnp.zeros(1), jnp.zeros((1, net.obs_dim)))["params"]


def describe(spec):
    """Returns what stands in policy.json."""
    return {"network": {name: getattr(spec.network, name) for name in FIELDS}}


def read(description):
    """Returns what policy.json, or a configuration's `network`, describes."""
    sizes = description["network"]
    if set(sizes) != set(FIELDS):
        raise ValueError(f"found network fields {sorted(sizes)}, expected {FIELDS}")
    if not all(type(n) is int and 1 <= n <= MAX_SIZE for n in sizes.values()):
        raise ValueError(f"found {sizes}, expected numbers from 1 to {MAX_SIZE}")
    if sizes["width"] % sizes["heads"]:
        raise ValueError(f"found width {sizes['width']}, expected a multiple of heads")
    return Spec(Transformer(**sizes))


KINDS[NAME] = Kind(denoiser, loss, init, describe, read)


def get_config(preset: str = "") -> ConfigDict:
    """Returns the pre-training on Square, or with other presets the steering."""
    if preset == "pretrain":
        config = square_pretrain.get_config("flow").unlock()
        config.network = ConfigDict({"width": 64, "depth": 2, "heads": 4})
    else:
        config = square_ddim8.get_config(preset).unlock()
        config.base_policy = "runs/own_policy-pretrain-seed0/policy"
    config.policy_kind = NAME
    return config.lock()


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
