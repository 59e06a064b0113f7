"""The network of DPPO's MLP policies (`DiffusionMLP`): of noise, or of velocities."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Real

from dynvgd_jax.core.precision import matmul
from dynvgd_jax.diffusion.arrays import Array

# DPPO's residual blocks set 1e-6, its plain MLP keeps PyTorch's default.
RESIDUAL_NORM_EPS = 1e-6
PLAIN_NORM_EPS = 1e-5
# Above it mish(x) = x in float32, and exp(2 * x) is still finite.
MISH_LINEAR_FROM = 20.0
# Far above any policy; what a damaged or hostile description may ask for.
MAX_SIZE, MAX_LAYERS = 65536, 100


def mish(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`x * tanh(log(1 + exp(x)))`, written with a single exponential.

    With e = exp(x): tanh(log(1 + e)) = n / (n + 2), n = e * (e + 2).
    """
    e = jnp.exp(jnp.minimum(x, MISH_LINEAR_FROM))
    n = e * (e + 2.0)
    return x * (n / (n + 2.0))


ACTIVATIONS = {"mish": mish, "relu": jax.nn.relu}


class Dense(nn.Module):
    """`x @ kernel + bias`; `init` gives zeros, `draw_params` the initial values."""

    features: int
    product: Callable[[Array, Array], Array] = matmul
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*b n"]) -> Float[Array, "*b m"]:
        zeros = nn.initializers.zeros
        kernel = self.param("kernel", zeros, (x.shape[-1], self.features))
        y = self.product(x, kernel)
        if not self.use_bias:
            return y
        bias = self.param("bias", zeros, (self.features,))
        return y + jnp.broadcast_to(bias, y.shape)


def _layer_norm(eps, name):
    # The fast variance E[x^2] - E[x]^2 loses digits that PyTorch keeps.
    return nn.LayerNorm(epsilon=eps, use_fast_variance=False, name=name)


def sinusoidal_embedding(t: Real[Array, "b"], dim: int) -> Float[Array, "b {dim}"]:
    """`[sin(t * f), cos(t * f)]`, f = exp(-j * ln(10000) / (dim / 2 - 1))."""
    half = dim // 2
    frequencies = np.exp(np.arange(half) * -(math.log(10000) / (half - 1)))
    angles = t[:, None].astype(jnp.float32) * frequencies.astype(np.float32)[None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class DiffusionMLP(nn.Module):
    """Predicts the noise in an action chunk, or its velocity, from (x_t, t, obs).

    The trunk's input is `[x_t flattened, time embedding, encoded obs]`. The time
    embedding always uses Mish; trunk and observation encoder use `activation`.
    """

    obs_dim: int
    action_dim: int
    chunk_len: int
    time_dim: int = 16  # even, at least 4
    hidden_dims: tuple[int, ...] = (512, 512, 512)
    cond_dims: tuple[int, ...] = ()  # widths of the observation encoder; () is none
    activation: str = "mish"  # or "relu"
    residual: bool = True  # equal widths; 1 + 2 * blocks hidden layers
    layer_norm: bool = False

    def __post_init__(self):
        # Serialised architectures bring lists; a module must be hashable.
        for name in ("hidden_dims", "cond_dims"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"found activation {self.activation!r}, expected one of "
                f"{sorted(ACTIVATIONS)}"
            )
        if self.time_dim < 4 or self.time_dim % 2:
            raise ValueError(f"found time_dim {self.time_dim}, expected even and >= 4")
        if not self.hidden_dims:
            raise ValueError("found no hidden_dims, expected at least one width")
        if self.residual and (
            len(set(self.hidden_dims)) != 1 or len(self.hidden_dims) % 2 == 0
        ):
            raise ValueError(
                f"found residual hidden_dims {self.hidden_dims}, expected an odd "
                "number of equal widths"
            )
        super().__post_init__()

    @property
    def num_blocks(self) -> int:
        """Residual blocks of the trunk."""
        return (len(self.hidden_dims) - 1) // 2 if self.residual else 0

    @nn.compact
    def __call__(
        self,
        x_t: Float[Array, "b ta da"],
        t: Real[Array, "*b"],
        obs: Float[Array, "b do"],
    ) -> Float[Array, "b ta da"]:
        """Returns `eps_hat` `[B, Ta, Da]`.

        Args:
          x_t: noisy action chunks `[B, Ta, Da]`.
          t: training timestep `[B]` (a flow's time, float), or `[]` where it is the
            same for the whole batch (the embedding is then computed for one row).
          obs: normalised observations `[B, Do]`.
        """
        x, time, condition = self._inputs(x_t, t, obs)
        time = jnp.broadcast_to(time, (len(x), self.time_dim))
        h = jnp.concatenate([x, time, condition], axis=-1)
        h = self._residual_trunk(h) if self.residual else self._plain_trunk(h)
        eps = Dense(self.chunk_len * self.action_dim, name="out")(h)
        return eps.reshape(x_t.shape)

    def _inputs(self, x_t, t, obs):
        """The trunk's three inputs: x_t flattened, time embedding, encoded obs."""
        expected = (self.chunk_len, self.action_dim)
        if x_t.shape[1:] != expected or obs.shape != (len(x_t), self.obs_dim):
            raise ValueError(
                f"found x_t {x_t.shape} and obs {obs.shape}, expected "
                f"(B, {expected[0]}, {expected[1]}) and (B, {self.obs_dim})"
            )
        time = sinusoidal_embedding(jnp.atleast_1d(t), self.time_dim)
        time = mish(Dense(2 * self.time_dim, name="time_0")(time))
        time = Dense(self.time_dim, name="time_1")(time)

        condition = obs
        for i, width in enumerate(self.cond_dims):
            condition = Dense(width, name=f"cond_{i}")(condition)
            if i < len(self.cond_dims) - 1:
                condition = ACTIVATIONS[self.activation](condition)
        return x_t.reshape(len(x_t), -1), time, condition

    def _residual_trunk(self, h):
        """One Dense, then pre-activation blocks of two Dense each."""
        width = self.hidden_dims[0]
        h = Dense(width, name="trunk_in")(h)
        for i in range(self.num_blocks):
            h = h + Dense(width, name=f"block_{i}_l2")(self._block(h, i))
        return h

    def _block(self, h, i):
        """What the second Dense of block `i` receives."""
        act = ACTIVATIONS[self.activation]

        def normed(x, name):
            return _layer_norm(RESIDUAL_NORM_EPS, name)(x) if self.layer_norm else x

        inner = act(normed(h, f"block_{i}_norm1"))
        inner = Dense(self.hidden_dims[0], name=f"block_{i}_l1")(inner)
        return act(normed(inner, f"block_{i}_norm2"))

    def _plain_trunk(self, h):
        """Dense, optional LayerNorm, activation, for every hidden width."""
        for i, width in enumerate(self.hidden_dims):
            h = Dense(width, name=f"trunk_{i}")(h)
            if self.layer_norm:
                h = _layer_norm(PLAIN_NORM_EPS, f"trunk_{i}_norm")(h)
            h = ACTIVATIONS[self.activation](h)
        return h


_FIELDS = tuple(
    f.name for f in dataclasses.fields(DiffusionMLP) if f.name not in ("name", "parent")
)


def network_fields(network: DiffusionMLP) -> dict[str, Any]:
    """Returns the fields that describe a network, JSON values."""
    return {name: getattr(network, name) for name in _FIELDS}


def read_network(fields: dict[str, Any]) -> DiffusionMLP:
    """Returns the network of a description; sizes are checked before any memory is.

    Raises:
      TypeError, ValueError: `fields` describes no network.
    """
    if set(fields) != set(_FIELDS):
        wrong = sorted(set(fields) ^ set(_FIELDS))
        raise ValueError(f"network fields {wrong} missing or unknown")
    lists = ("hidden_dims", "cond_dims")  # as JSON has them
    network = DiffusionMLP(**fields | {name: tuple(fields[name]) for name in lists})
    sizes = (network.obs_dim, network.action_dim, network.chunk_len, network.time_dim)
    sizes += network.hidden_dims + network.cond_dims
    if not all(type(size) is int and 1 <= size <= MAX_SIZE for size in sizes):
        raise ValueError(f"sizes {sizes}, expected numbers from 1 to {MAX_SIZE}")
    if len(sizes) > MAX_LAYERS:
        raise ValueError(f"{len(sizes)} sizes, expected at most {MAX_LAYERS}")
    if type(network.residual) is not bool or type(network.layer_norm) is not bool:
        raise ValueError("residual and layer_norm, expected true or false")
    return network


def bind(network: nn.Module, params: Any) -> Callable[[Array, Array, Array], Array]:
    """Binds `params`; the result takes `(x_t, t, obs)` with t `[]` or `[B]`."""

    def predict(x_t, t, obs):
        return network.apply({"params": params}, x_t, t, obs)

    return predict


@functools.cache
def param_shapes(network: DiffusionMLP) -> Any:
    """Returns the tree of parameters as shapes and dtypes."""
    x_t = jnp.zeros((1, network.chunk_len, network.action_dim))
    t, obs = jnp.zeros((1,), jnp.int32), jnp.zeros((1, network.obs_dim))
    return jax.eval_shape(network.init, jax.random.key(0), x_t, t, obs)["params"]


@functools.partial(jax.jit, static_argnums=0)
def init_params(network: DiffusionMLP, key: Array) -> Any:
    """Returns fresh parameters, distributed like PyTorch's defaults."""
    return draw_params(param_shapes(network), key)


@functools.partial(jax.jit, static_argnums=(0, 2))
def init_on_rows(network: nn.Module, key: Array, widths: tuple[int, ...]) -> Any:
    """Returns fresh parameters of a module of named layers that takes rows.

    Args:
      network: the module.
      key: PRNG key.
      widths: of its inputs `[B, width]`.
    """
    rows = [jnp.zeros((1, width)) for width in widths]
    return draw_params(jax.eval_shape(network.init, key, *rows)["params"], key)


def draw_params(shapes: Any, key: Array) -> Any:
    """Returns initial values for named layers, distributed like PyTorch's defaults.

    Weights and biases of a `Dense` are uniform in +-1 / sqrt(fan_in); a LayerNorm is
    the identity. All values come from one draw: XLA takes seconds to compile a
    generator for each leaf.

    Args:
      shapes: layer name -> `{"kernel", "bias"}` or `{"scale", "bias"}`, leaves with a
        shape; leading axes before a kernel's two are members of an ensemble.
      key: PRNG key.
    """
    layers = {name: s for name, s in shapes.items() if "kernel" in s}
    total = sum(leaf.size for leaf in jax.tree.leaves(layers))
    draw = jax.random.uniform(key, (total,), jnp.float32, -1.0, 1.0)
    params = {
        name: {"scale": jnp.ones(s["scale"].shape), "bias": jnp.zeros(s["bias"].shape)}
        for name, s in shapes.items()
        if name not in layers
    }
    start = 0
    for name, layer in layers.items():
        params[name] = {}
        for leaf_name, leaf in layer.items():
            values = draw[start : start + leaf.size].reshape(leaf.shape)
            params[name][leaf_name] = values / math.sqrt(layer["kernel"].shape[-2])
            start += leaf.size
    return params
