"""Float64 PyTorch critics of several outputs, and their TD steps beside the package's.

A kind brings its own target, mean and loss as functions of torch tensors; the network,
its gradient, Adam and Polyak are PyTorch's.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional

from dynvgd_jax.core.types import Transition
from dynvgd_jax.steering.critics import td
from tests.steering import reference

OBS, ACT, BATCH = 5, 6, 8
RATE, TAU = 1e-3, 0.1


class Kind(NamedTuple):
    """What a kind of critics is in torch; predictions are `[N, B, M]`, raw outputs."""

    target: Callable  # (next outputs, reward [B], discount [B]) -> y
    loss: Callable  # (outputs, y) -> []
    mean: Callable  # outputs -> [N, B]
    mean_of_target: Callable  # y -> [B]


class Critics:
    """The parameters of an ensemble as torch leaves."""

    def __init__(self, params):
        def leaf(array):
            return torch.tensor(array, requires_grad=True)

        self.members = [
            {name: {k: leaf(v) for k, v in layer.items()} for name, layer in c.items()}
            for c in reference.unstack(params)
        ]

    def parameters(self):
        return [leaf for c in self.members for d in c.values() for leaf in d.values()]

    def __call__(self, obs, action):
        x = torch.cat([torch.as_tensor(obs), torch.as_tensor(action)], -1)
        return torch.stack([_forward(member, x) for member in self.members])


def _forward(member, h):
    depth = sum(name.startswith("hidden") for name in member)
    for i in range(depth):
        dense, norm = member[f"hidden_{i}"], member[f"norm_{i}"]
        h = functional.linear(h, dense["kernel"].T, dense["bias"])
        h = functional.layer_norm(h, h.shape[-1:], norm["scale"], norm["bias"])
        h = torch.tanh(h)
    return functional.linear(h, member["out"]["kernel"].T, member["out"]["bias"])


def batch_of(seed):
    """Float64 transitions, and next actions."""
    rng = np.random.default_rng(seed)
    batch = Transition(
        obs=rng.normal(size=(BATCH, OBS)),
        action=rng.normal(size=(BATCH, ACT)),
        reward=rng.normal(size=BATCH) - 4,
        next_obs=rng.normal(size=(BATCH, OBS)),
        discount=0.9 * (rng.random(BATCH) >= 0.3),
        ended=np.zeros(BATCH, bool),
    )
    return batch, rng.normal(size=(BATCH, ACT))


def rows():
    """Observations and actions of one batch."""
    batch, _ = batch_of(7)
    return jnp.float32(batch.obs), jnp.float32(batch.action)


def fresh(critic):
    """The critics' first parameters."""
    return jax.jit(critic.init)(jax.random.key(0))


def check_three_steps(critic, kind):
    """Three of `td.gradient_step` leave the parameters that torch's leave."""
    params, optimizer = fresh(critic), td.make_optimizer(RATE)
    state = td.CriticState(params, params, optimizer.init(params))
    current, targets = Critics(params), Critics(params)
    adam = torch.optim.Adam(current.parameters(), lr=RATE)
    step = jax.jit(
        lambda state, batch, action: td.gradient_step(
            critic,
            optimizer,
            state,
            batch,
            td.next_target(critic, state.target_params, batch, action),
            tau=TAU,
        )
    )
    for number in range(3):
        batch, next_action = batch_of(number)
        floats = jax.tree.map(jnp.float32, (batch, next_action))
        state, metrics = step(state, *floats)
        loss, error = _torch_step(kind, current, targets, adam, batch, next_action)
        np.testing.assert_allclose(metrics["train/critic_loss"], loss, rtol=1e-5)
        np.testing.assert_allclose(metrics["train/td_error_mean"], error, rtol=1e-5)
    for ours, theirs in ((state.params, current), (state.target_params, targets)):
        for got, want in zip(reference.unstack(ours), theirs.members, strict=True):
            jax.tree.map(_assert_close, got, want)


def _assert_close(got, want):
    np.testing.assert_allclose(got, want.detach(), atol=1e-5)


def _torch_step(kind, current, targets, adam, batch, next_action):
    """One step in place; returns the loss and the mean |Q - y|."""
    with torch.no_grad():
        next_outputs = targets(batch.next_obs, next_action)
        rows = torch.tensor(batch.reward), torch.tensor(batch.discount)
        y = kind.target(next_outputs, *rows)
    outputs = current(batch.obs, batch.action)
    loss = kind.loss(outputs, y)
    error = (kind.mean(outputs) - kind.mean_of_target(y)).abs().mean()
    adam.zero_grad()
    loss.backward()
    adam.step()
    with torch.no_grad():
        for t, c in zip(targets.parameters(), current.parameters(), strict=True):
            t.lerp_(c, TAU)
    return loss.item(), error.item()


def learn(critic, rewards, *, steps, rate=0.02):
    """Returns what critics predict of draws, after `steps` at one state without a next.

    Args:
      critic: of the kind.
      rewards: `[n]` equally likely ones.
      steps: gradient steps, each on 128 draws.
      rate: Adam's step size at first; it falls to 0.
    """
    optimizer = td.make_optimizer(rate)
    rows = jnp.ones((128, OBS)), jnp.ones((128, ACT))
    nothing = jnp.zeros(128)

    def one_step(state, inputs):
        key, left = inputs
        reward = jax.random.choice(key, jnp.float32(rewards), (128,))
        batch = Transition(*rows, reward, rows[0], nothing, nothing == 1)
        y = td.next_target(critic, state.target_params, batch, rows[1])
        new, _ = td.gradient_step(critic, optimizer, state, batch, y, tau=1.0)
        params = td.polyak(state.params, new.params, left)
        return new._replace(params=params), None

    params = fresh(critic)
    state = td.CriticState(params, params, optimizer.init(params))
    inputs = jax.random.split(jax.random.key(1), steps), jnp.linspace(1.0, 0.0, steps)
    state, _ = jax.jit(lambda s, x: jax.lax.scan(one_step, s, x))(state, inputs)
    return critic.predict(state.params, rows[0][:1], rows[1][:1])[:, 0]
