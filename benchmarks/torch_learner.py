"""The published training call and acting in PyTorch, our own writing, as it ran.

Per guided step the ensemble is evaluated four times (gradient, weight, value before and
after the push) and six statistics are fetched to the host; every gradient step decodes
from noise by itself. `tests/benchmarks/test_torch_learner.py` holds it to ours.
"""

from collections.abc import Mapping

import numpy as np
import torch
from ml_collections import ConfigDict
from torch import nn

from dynvgd_jax.core.types import PyTree, Transition
from dynvgd_jax.diffusion.schedule import DDIMSchedule
from dynvgd_jax.replay.ring import discounted, rows
from dynvgd_jax.torch_weights.forward import predict_noise

ANNEALS = {
    "linear": lambda share: share,
    "cosine": lambda share: 0.5 - 0.5 * np.cos(np.pi * share),
    "off": lambda share: 1.0,
}


def make_critics(params: PyTree) -> nn.ModuleList:
    """Returns one module a critic, with the weights of our ensemble's parameters."""
    stacked = params["params"]["critics"]
    depth = sum(name.startswith("hidden") for name in stacked)

    def tensor(name, leaf, i):
        return torch.tensor(np.asarray(stacked[name][leaf][i]))

    def linear(name, i):
        kernel = tensor(name, "kernel", i)
        layer = nn.Linear(*kernel.shape)
        layer.weight.data = kernel.T.contiguous()
        layer.bias.data = tensor(name, "bias", i)
        return layer

    def critic(i):
        layers = []
        for j in range(depth):
            norm = nn.LayerNorm(stacked[f"hidden_{j}"]["kernel"].shape[-1])
            norm.weight.data = tensor(f"norm_{j}", "scale", i)
            norm.bias.data = tensor(f"norm_{j}", "bias", i)
            layers += [linear(f"hidden_{j}", i), norm, nn.Tanh()]
        return nn.Sequential(*layers, linear("out", i))

    return nn.ModuleList(critic(i) for i in range(len(stacked["out"]["bias"])))


class TorchLearner:
    """Critics, targets, and the two things that a run does with them."""

    def __init__(
        self,
        config: ConfigDict,
        schedule: DDIMSchedule,
        policy: Mapping[str, torch.Tensor],
        activation: str,
        chunk_shape: tuple[int, int],
        params: PyTree,
    ):
        """Starts from our initial `params` of a run; `policy` has DPPO's keys."""
        self.config, self.schedule, self.chunk_shape = config, schedule, chunk_shape
        self.policy, self.activation = policy, activation
        self.critics, self.targets = make_critics(params), make_critics(params)
        self.optimizer = torch.optim.Adam(
            self.critics.parameters(), lr=config.learning_rate
        )
        self.td_error = 0.0

    def act(self, obs: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Returns the guided decode `[B, Ta, Da]` of `noise` for `obs [B, Do]`."""
        schedule, config = self.schedule, self.config.guidance
        guided_from = schedule.num_steps - (config.last_k or schedule.num_steps)
        x, self.stats = noise, []
        for k in range(schedule.num_steps):
            x = self._plain_step(x, obs, k)
            if k < guided_from:
                continue
            z = x
            for later in range(k + 1, schedule.num_steps):
                z = self._plain_step(z, obs, later)
            x0 = self._push(z, obs, k)
            alpha_prev = float(schedule.alpha_prev[k])
            eps = self._noise(x, obs, k)
            x = alpha_prev**0.5 * x0 + (1 - alpha_prev) ** 0.5 * eps
        return x

    def update(self, replay: Transition) -> dict[str, float]:
        """One training call on batches drawn from `replay`; returns its means."""
        utd, batch = self.config.utd, self.config.batch_size
        metrics = []
        for _ in range(utd):
            slots = torch.randint(len(replay.reward), (batch,))
            drawn = discounted(rows(replay, slots), self.config.gamma)
            noise = torch.randn(batch, *self.chunk_shape)
            metrics.append(self.gradient_step(drawn, noise))
        self.td_error = float(np.mean([m["td_error"] for m in metrics]))
        return {name: float(np.mean([m[name] for m in metrics])) for name in metrics[0]}

    def gradient_step(self, batch: Transition, noise: torch.Tensor) -> dict[str, float]:
        """One Adam and one Polyak step on a drawn batch, next actions from `noise`."""
        chunk = self.act(batch.next_obs, noise)
        with torch.no_grad():
            next_q = self._values(self.targets, batch.next_obs, chunk)
            y = batch.reward + batch.discount * next_q.min(0).values
            y = y.clamp(-self.config.target_clip, self.config.target_clip)
        q = self._values(self.critics, batch.obs, batch.action)
        loss = 0.5 * sum(nn.functional.mse_loss(q_i, y) for q_i in q)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            tau = self.config.target_tau
            pairs = zip(self.targets.parameters(), self.critics.parameters())
            for target, current in pairs:
                target.mul_(1 - tau).add_(current, alpha=tau)
            error = (q - y).abs()
            return {
                "loss": loss.item(),
                "td_error": error.mean().item(),
                "td_error_std": error.std().item(),
                "q_std": q.std(0).mean().item(),
                "q_spread": (q.max(0).values - q.min(0).values).mean().item(),
                **{f"q{i}": q_i.mean().item() for i, q_i in enumerate(q)},
            }

    def _push(self, z: torch.Tensor, obs: torch.Tensor, k: int) -> torch.Tensor:
        """`z` moved along the gradient of the minimal value, and its statistics."""
        config = self.config.guidance
        leaf = z.detach().flatten(1).requires_grad_()
        q = self._values(self.critics, obs, leaf)
        (grad,) = torch.autograd.grad(q.min(0).values.sum(), leaf)
        with torch.no_grad():
            flat = leaf.detach()
            std = self._values(self.critics, obs, flat).std(0)
            w = torch.exp(-config.beta * std / config.c_local)
            w = w * np.exp(-config.beta * self.td_error / config.c_global)
            w = w.clamp(1e-3, 1)[:, None]
            share = (k + 1) / self.schedule.num_steps
            push = config.scale * ANNEALS[config.time_anneal](share) * w * grad
            x0 = (flat + push).clamp(-1, 1)
            before = self._values(self.critics, obs, flat).min(0).values
            after = self._values(self.critics, obs, x0).min(0).values
            delta = x0 - flat
            cosine = nn.functional.cosine_similarity(delta, grad)
            self.stats.append(
                {
                    "weight": w.mean().item(),
                    "grad_norm": grad.norm(dim=-1).mean().item(),
                    "delta_norm": delta.norm(dim=-1).mean().item(),
                    "cosine": cosine.mean().item(),
                    "q_pre": before.mean().item(),
                    "q_post": after.mean().item(),
                }
            )
        return x0.reshape(z.shape)

    def _plain_step(self, x: torch.Tensor, obs: torch.Tensor, k: int) -> torch.Tensor:
        alpha = float(self.schedule.alpha[k])
        alpha_prev = float(self.schedule.alpha_prev[k])
        noise_scale = (1 - alpha) ** 0.5
        x0 = (x - noise_scale * self._noise(x, obs, k)) / alpha**0.5
        x0 = x0.clamp(-1, 1)
        eps = (x - alpha**0.5 * x0) / noise_scale
        return alpha_prev**0.5 * x0 + (1 - alpha_prev) ** 0.5 * eps

    def _noise(self, x: torch.Tensor, obs: torch.Tensor, k: int) -> torch.Tensor:
        t = torch.full((len(x),), float(self.schedule.t[k]))
        return predict_noise(self.policy, self.activation, x, t, obs)

    def _values(self, critics, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        joined = torch.cat([obs, action.flatten(1)], dim=-1)
        return torch.stack([critic(joined)[:, 0] for critic in critics])
