"""A small agent for Gymnasium tasks: its networks, how it acts, its file."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.types import PyTree
from dynvgd_jax.core.untrusted import load_npz

_MAX_LAYERS = 9  # of a file
_SCALES = ("obs_mean", "obs_std", "action_low", "action_high", "log_std")
_FIRST_CLIP = 10.0  # of scaled observations, in standard deviations


class Layer(NamedTuple):
    """A linear layer."""

    kernel: Any  # [in, out] float32
    bias: Any  # [out] float32


class Agent(NamedTuple):
    """A Gaussian policy: an MLP with Tanh for its mean, one deviation an action."""

    layers: tuple[Layer, ...]
    log_std: np.ndarray  # [Da], of actions in [-1, 1]
    obs_mean: np.ndarray  # [Do], of the observations of its training
    obs_std: np.ndarray  # [Do]
    action_low: np.ndarray  # [Da] bounds of raw actions
    action_high: np.ndarray  # [Da]

    def act(self, obs: np.ndarray, draw: np.ndarray) -> np.ndarray:
        """Returns raw actions `[N, Da]` within their bounds.

        Args:
          obs: raw, `[N, Do]`.
          draw: standard normal, `[N, Da]`; 0 gives the mode.
        """
        mean = forward(self.layers, scale_obs(obs, self.obs_mean, self.obs_std))
        unit = mean + np.exp(self.log_std) * draw
        return self.raw_action(unit)

    def raw_action(self, unit: np.ndarray) -> np.ndarray:
        """Returns numbers of [-1, 1], clipped to that, in the actions' bounds."""
        share = (np.clip(unit, -1.0, 1.0) + 1.0) / 2.0
        return self.action_low + share * (self.action_high - self.action_low)


def scale_obs(obs: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Returns `(obs - mean) / std`, clipped, float32."""
    scaled = (obs - mean) / std
    return np.clip(scaled, -_FIRST_CLIP, _FIRST_CLIP).astype(np.float32)


def forward(layers: Sequence[Layer], x: Any, tanh: Callable = np.tanh) -> Any:
    """Returns the outputs `[N, out]`; `tanh` is NumPy's or JAX's, as the arrays are."""
    *hidden, last = layers
    for layer in hidden:
        x = tanh(x @ layer.kernel + layer.bias[None])
    return x @ last.kernel + last.bias[None]


def fresh_layers(key: jax.Array, sizes: Sequence[int], last: float) -> PyTree:
    """Returns orthogonal layers from `sizes[0]` to `sizes[-1]`, biases 0.

    Gains are sqrt(2), of the last layer `last` (Andrychowicz et al. 2021).
    """
    gains = [2.0**0.5] * (len(sizes) - 2) + [last]
    layers = []
    for i, gain in enumerate(gains):
        draw = jax.nn.initializers.orthogonal(gain)
        kernel = draw(jax.random.fold_in(key, i), (sizes[i], sizes[i + 1]))
        layers.append(Layer(kernel, np.zeros(sizes[i + 1], np.float32)))
    return tuple(layers)


def save_agent(path: Path, agent: Agent) -> None:
    """Writes an agent as one npz."""
    arrays = {name: getattr(agent, name) for name in _SCALES}
    for i, layer in enumerate(agent.layers):
        arrays |= {f"kernel_{i}": layer.kernel, f"bias_{i}": layer.bias}
    np.savez(path, **{k: np.asarray(v, np.float32) for k, v in arrays.items()})


def load_agent(path: Path) -> Agent:
    """Reads what `save_agent` wrote.

    Raises:
      UserError: there is no such file, or it holds no agent.
    """
    if not path.is_file():
        raise UserError(
            f"found no agent at {path}, expected one of job agent "
            "(configs/hopper_agent.py)"
        )
    places = [f"{part}_{i}" for i in range(_MAX_LAYERS) for part in ("kernel", "bias")]
    found = load_npz(path, [*_SCALES, *places])
    count = sum(name.startswith("kernel_") for name in found)
    try:
        pairs = [(found[f"kernel_{i}"], found[f"bias_{i}"]) for i in range(count)]
        scales = {name: found[name] for name in _SCALES}
    except KeyError as error:
        raise UserError(f"{path} holds no agent: {error} is missing") from error
    layers = tuple(Layer(*pair) for pair in pairs)
    ends = [n for layer in layers for n in layer.kernel.shape][1:-1]
    if not layers or ends[::2] != ends[1::2]:
        raise UserError(f"{path} holds no agent: its layers do not fit each other")
    return Agent(layers, **scales)
