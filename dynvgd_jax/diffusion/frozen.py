"""A frozen residual network, its linear layers multiplied together for many decodes.

Nothing stands between the last Dense of a residual block and the output, so

    out(h) = (h_0 + sum_i a_i @ l2_i) @ out = h_0 @ out + sum_i a_i @ (l2_i @ out),

and h_0, the trunk's first Dense, is linear in x, time and condition by itself. With the
products of weights taken once, an evaluation of one block (DPPO's robomimic policies)
has one large product instead of two. Sums are taken in another order, nothing else
differs from `DiffusionMLP`.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float, Real

from dynvgd_jax.diffusion.arrays import Array
from dynvgd_jax.diffusion.network import Dense, DiffusionMLP


class FrozenMLP(DiffusionMLP):
    """`DiffusionMLP` with residual blocks, on parameters that `fold` made."""

    @nn.compact
    def __call__(
        self,
        x_t: Float[Array, "b ta da"],
        t: Real[Array, "*b"],
        obs: Float[Array, "b do"],
    ) -> Float[Array, "b ta da"]:
        """Returns `eps_hat` `[B, Ta, Da]`; arguments as `DiffusionMLP`'s."""
        x, time, condition = self._inputs(x_t, t, obs)

        def linear(name, width):
            # By itself the part of the condition is the same at every step of a
            # decode: XLA computes it once.
            product = functools.partial(Dense, width, use_bias=False)
            y = Dense(width, name=f"{name}_condition")(condition)
            y = y + product(name=f"{name}_time")(time)
            return y + product(name=f"{name}_x")(x)

        width, flat_dim = self.hidden_dims[0], self.chunk_len * self.action_dim
        h, eps = linear("trunk", width), linear("out", flat_dim)
        for i in range(self.num_blocks):
            inner = self._block(h, i)
            eps = eps + Dense(flat_dim, use_bias=False, name=f"block_{i}_out")(inner)
            if i < self.num_blocks - 1:
                h = h + Dense(width, name=f"block_{i}_l2")(inner)
        return eps.reshape(x_t.shape)


def fold(network: DiffusionMLP, params: Any) -> Any:
    """Returns the parameters of `FrozenMLP` for those of a residual `network`."""
    product = functools.partial(jnp.matmul, precision="highest")
    flat_dim = network.chunk_len * network.action_dim
    parts = {
        "x": slice(0, flat_dim),
        "time": slice(flat_dim, flat_dim + network.time_dim),
        "condition": slice(flat_dim + network.time_dim, None),
    }
    first, out = params["trunk_in"], params["out"]
    direct = {name: product(leaf, out["kernel"]) for name, leaf in first.items()}
    direct["bias"] += out["bias"]

    folded = {k: v for k, v in params.items() if k not in ("trunk_in", "out")}
    for i in range(network.num_blocks):
        last = params[f"block_{i}_l2"]
        folded[f"block_{i}_out"] = {"kernel": product(last["kernel"], out["kernel"])}
        direct["bias"] += product(last["bias"], out["kernel"])
    for name, layer in (("trunk", first), ("out", direct)):
        for part, rows in parts.items():
            folded[f"{name}_{part}"] = {"kernel": layer["kernel"][rows]}
        folded[f"{name}_condition"]["bias"] = layer["bias"]
    return folded


def freeze(network: DiffusionMLP, params: Any) -> tuple[DiffusionMLP, Any]:
    """Returns a network and parameters of the same values, residual ones folded."""
    if not network.residual:
        return network, params
    names = {f.name for f in dataclasses.fields(network)} - {"name", "parent"}
    fields = {name: getattr(network, name) for name in names}
    return FrozenMLP(**fields), fold(network, params)
