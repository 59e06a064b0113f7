"""Float64 PyTorch DSRL: one training call from its formulas, apart from the package.

The decode, which has no gradient, is the NumPy reference's.
"""

from typing import NamedTuple

import jax
import numpy as np
import torch
from torch.nn import functional

from tests.steering import toy
from tests.steering.torch_critics import Critics
from tests.support.reference import ddim_decode


def leaves(tree):
    """All leaves of nested dicts, in their order."""
    if isinstance(tree, dict):
        return [leaf for value in tree.values() for leaf in leaves(value)]
    return [tree]


class Actor:
    """The parameters of a noise actor as torch leaves."""

    def __init__(self, params):
        self.tree = jax.tree.map(
            lambda leaf: torch.tensor(np.float64(leaf), requires_grad=True),
            params["params"],
        )

    def parameters(self):
        return leaves(self.tree)

    def __call__(self, obs, draw):
        """Unit noise and its log-probability."""
        h, p = torch.tensor(obs), self.tree
        for i in range(sum(name.startswith("hidden") for name in p)):
            dense, norm = p[f"hidden_{i}"], p[f"norm_{i}"]
            h = functional.linear(h, dense["kernel"].T, dense["bias"])
            h = functional.layer_norm(h, h.shape[-1:], norm["scale"], norm["bias"])
            h = torch.tanh(h)
        mean, log_std = (
            functional.linear(h, p[name]["kernel"].T, p[name]["bias"])
            for name in ("mean", "log_std")
        )
        std = log_std.clamp(-20, 2).exp()
        u = mean + std * torch.tensor(draw)
        unit = torch.tanh(u)
        density = torch.distributions.Normal(mean, std).log_prob(u)
        return unit, (density - torch.log(1 - unit**2 + 1e-6)).sum(-1)


class Options(NamedTuple):
    rate: float
    tau: float
    target_entropy: float
    bound: float
    reduce: str


class Learner:
    """Everything that DSRL learns, with PyTorch's Adam; SAC has no noise critics."""

    def __init__(self, sac, options, noise_critic=None):
        self.options = options
        self.actor = Actor(sac.actor.params)
        self.critics, self.targets = (
            _critics(tree) for tree in (sac.critic.params, sac.critic.target_params)
        )
        coef = np.float64(sac.log_entropy_coef.params)
        self.log_coef = torch.tensor(coef, requires_grad=True)
        self.noise_critics = noise_critic and _critics(noise_critic.params)
        parts = {
            "actor": self.actor.parameters(),
            "critics": self.critics.parameters(),
            "coef": [self.log_coef],
        }
        if noise_critic:
            parts["noise"] = self.noise_critics.parameters()
        self.adam = {
            name: torch.optim.Adam(p, lr=options.rate) for name, p in parts.items()
        }

    def descend(self, name, loss):
        self.adam[name].zero_grad()
        loss.backward()
        self.adam[name].step()

    def reduced(self, q):
        return q.min(0).values if self.options.reduce == "min" else q.mean(0)

    def gradient_step(self, batch, action, now, after):
        """One step; `action` is what the critics judge at `batch.obs`."""
        _, log_prob = self.actor(batch.obs, now)
        coef = self.log_coef.detach().exp()
        wanted = self.options.target_entropy
        self.descend("coef", -(self.log_coef * (log_prob.detach() + wanted)).mean())
        with torch.no_grad():
            unit, next_log_prob = self.actor(batch.next_obs, after)
            flat = unit.numpy()
            if self.noise_critics:
                flat = decoded(batch.next_obs, self.options.bound * flat)
            q = self.targets(batch.next_obs, flat)[..., 0]
            soft = self.reduced(q) - coef * next_log_prob
            y = torch.tensor(batch.reward) + torch.tensor(batch.discount) * soft
        q = self.critics(batch.obs, action)[..., 0]
        loss = 0.5 * sum(functional.mse_loss(one, y) for one in q)
        td_error = (q - y).abs().mean().item()
        self.descend("critics", loss)
        unit, log_prob = self.actor(batch.obs, now)
        climbed = (self.noise_critics or self.critics)(batch.obs, unit)[..., 0]
        actor_loss = (coef * log_prob - self.reduced(climbed)).mean()
        self.descend("actor", actor_loss)
        with torch.no_grad():
            pairs = zip(self.targets.parameters(), self.critics.parameters())
            for target, current in pairs:
                target.lerp_(current, self.options.tau)
        return {
            "train/critic_loss": loss.item(),
            "train/td_error_mean": td_error,
            "train/actor_loss": actor_loss.item(),
            "train/log_prob": log_prob.mean().item(),
            "train/entropy_coef": coef.item(),
        }

    def distill_step(self, obs, noise):
        """One step of the noise critics at start noises `[B, Ta*Da]`."""
        with torch.no_grad():
            wanted = self.critics(obs, decoded(obs, noise))[..., 0]
        q = self.noise_critics(obs, noise / self.options.bound)[..., 0]
        loss = 0.5 * sum(functional.mse_loss(a, b) for a, b in zip(q, wanted))
        self.descend("noise", loss)
        return loss.item()


def _critics(params):
    """Parameters of all critics in one order: `tree.map` sorts by name."""
    return Critics(jax.tree.map(np.asarray, params))


def decoded(obs, flat_noise):
    """The toy policy's flat chunks, 4 DDIM steps."""
    noise = np.float64(flat_noise).reshape(-1, *toy.CHUNK)
    eps_fn = toy.make_eps_fn(toy.weights(), np)
    return ddim_decode(eps_fn, noise, np.float64(obs), 20, 4).reshape(len(obs), -1)
