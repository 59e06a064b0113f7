"""DPPO's policy network and VGD's critics in plain torch, straight from the tensors.

The check after a conversion runs them beside the JAX networks; they share nothing with
the key tables or the Flax modules.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F

_NORM_EPS = {"residual": 1e-6, "plain": 1e-5}
_ACTIVATIONS = {"mish": F.mish, "relu": F.relu}

Tensors = Mapping[str, torch.Tensor]


@torch.no_grad()
def predict_noise(
    tensors: Tensors,
    activation: str,
    x_t: torch.Tensor,
    t: torch.Tensor,
    obs: torch.Tensor,
) -> torch.Tensor:
    """Returns eps `[B, Ta, Da]` for `x_t [B, Ta, Da]`, `t [B]`, `obs [B, Do]`.

    Of a flow policy it is the velocity, and t its time.
    """
    act = _ACTIVATIONS[activation]

    def linear(x, name):
        return F.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def normed(x, name, eps):
        if f"{name}.weight" not in tensors:
            return x
        weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)

    def chain(x, prefix, eps):
        count = sum(key.startswith(prefix) for key in tensors)
        names = [f"{prefix}.{i}" for i in range(count)]
        names = [n for n in names if f"{n}.linear_1.weight" in tensors]
        for name in names[:-1]:
            x = act(normed(linear(x, f"{name}.linear_1"), f"{name}.norm_1", eps))
        return linear(x, f"{names[-1]}.linear_1")

    def trunk(x):
        if "mlp_mean.layers.0.weight" not in tensors:
            return chain(x, "mlp_mean.moduleList", _NORM_EPS["plain"])
        x, block, eps = linear(x, "mlp_mean.layers.0"), 1, _NORM_EPS["residual"]
        while f"mlp_mean.layers.{block}.l1.weight" in tensors:
            name = f"mlp_mean.layers.{block}"
            inner = linear(act(normed(x, f"{name}.norm1", eps)), f"{name}.l1")
            x = x + linear(act(normed(inner, f"{name}.norm2", eps)), f"{name}.l2")
            block += 1
        return linear(x, f"mlp_mean.layers.{block}")

    time = _embed(t, tensors["time_embedding.1.weight"].shape[1])
    time = linear(F.mish(linear(time, "time_embedding.1")), "time_embedding.3")
    if "cond_mlp.moduleList.0.linear_1.weight" in tensors:
        obs = chain(obs, "cond_mlp.moduleList", _NORM_EPS["plain"])
    joined = torch.cat([x_t.flatten(1), time, obs], dim=-1)
    return trunk(joined).reshape(x_t.shape)


@torch.no_grad()
def critic_value(tensors: Tensors, critic: int, x: torch.Tensor) -> torch.Tensor:
    """Returns Q `[B]` of one critic for `x [B, Do + Ta * Da]`."""
    index, prefix = 0, f"qf{critic}"
    while f"{prefix}.{index + 1}.weight" in tensors:
        linear, norm = (f"{prefix}.{index + i}" for i in (0, 1))
        x = F.linear(x, tensors[f"{linear}.weight"], tensors[f"{linear}.bias"])
        scale, bias = tensors[f"{norm}.weight"], tensors[f"{norm}.bias"]
        x = torch.tanh(F.layer_norm(x, x.shape[-1:], scale, bias, 1e-5))
        index += 3
    last = f"{prefix}.{index}"
    return F.linear(x, tensors[f"{last}.weight"], tensors[f"{last}.bias"])[:, 0]


def _embed(t: torch.Tensor, dim: int) -> torch.Tensor:
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32)
    angles = t[:, None] * torch.exp(steps * -(math.log(10000) / (half - 1)))[None]
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
