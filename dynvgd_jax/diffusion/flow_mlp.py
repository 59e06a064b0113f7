"""The kind "flow_mlp": DPPO's network predicts velocities, Euler steps decode.

The network's time is t in [0, 1] as it is, the convention of ReinFlow's `FlowMLP`.
"""

from collections.abc import Mapping
from typing import Any

from dynvgd_jax.diffusion.arrays import Array
from dynvgd_jax.diffusion.base import Denoiser, Kind, Spec
from dynvgd_jax.diffusion.flow import flow_loss, make_euler
from dynvgd_jax.diffusion.frozen import freeze
from dynvgd_jax.diffusion.network import (
    bind,
    init_params,
    network_fields,
    read_network,
)


def _denoiser(spec: Spec, num_steps: int) -> Denoiser:
    return make_euler(lambda params: bind(*freeze(spec.network, params)), num_steps)


def _loss(spec: Spec, params: Any, key: Array, obs: Array, actions: Array) -> Array:
    return flow_loss(bind(spec.network, params), key, obs, actions)


def _init(spec: Spec, key: Array) -> Any:
    return init_params(spec.network, key)


def _describe(spec: Spec) -> dict[str, Any]:
    return {"network": network_fields(spec.network)}


def _read(description: Mapping[str, Any]) -> Spec:
    return Spec(read_network(description["network"]))


FLOW_MLP = Kind(_denoiser, _loss, _init, _describe, _read)
