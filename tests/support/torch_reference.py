"""PyTorch modules with DPPO's and VGD's key names, and the decode and TD step on them.

Written from the formulas, apart from the package. Modules run in any precision; the
references below expect float64 ones.
"""

import collections
import contextlib
import io
import itertools
from typing import NamedTuple

import numpy as np
import torch
from torch import nn


class Sizes(NamedTuple):
    obs: int
    act: int
    chunk: int
    time: int
    hidden: int
    encoder: tuple[int, ...] = ()
    train_steps: int = 20  # T


SMALL = Sizes(23, 7, 4, 16, 24)
CAN = Sizes(23, 7, 4, 16, 512)
SQUARE = Sizes(23, 7, 4, 32, 1024, (512, 64), 100)


class Block(nn.Module):
    """Pre-activation residual block."""

    def __init__(self, width, norm, act=nn.functional.mish):
        super().__init__()
        self.act = act
        self.l1, self.l2 = nn.Linear(width, width), nn.Linear(width, width)
        if norm:
            self.norm1 = nn.LayerNorm(width, eps=1e-6)
            self.norm2 = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x):
        norms = [getattr(self, n, nn.Identity()) for n in ("norm1", "norm2")]
        y = self.l1(self.act(norms[0](x)))
        return x + self.l2(self.act(norms[1](y)))


class Chain(nn.Module):
    """Linear, LayerNorm if `norm`, Mish; the last is Linear alone."""

    def __init__(self, sizes, norm):
        super().__init__()
        self.moduleList = nn.ModuleList()
        for i, (a, b) in enumerate(itertools.pairwise(sizes)):
            parts = collections.OrderedDict(linear_1=nn.Linear(a, b))
            if i < len(sizes) - 2:
                parts |= {"norm_1": nn.LayerNorm(b)} if norm else {}
                parts["act_1"] = nn.Mish()
            self.moduleList.append(nn.Sequential(parts))

    def forward(self, x):
        for module in self.moduleList:
            x = module(x)
        return x


class Net(nn.Module):
    """DPPO's DiffusionMLP; `kind` holds the words "plain" and "norm", or neither.

    With "relu", a residual trunk has that instead of Mish, as gym policies have; the
    time embedding keeps Mish.
    """

    def __init__(self, sizes, kind="residual"):
        super().__init__()
        self.sizes, width, norm = sizes, sizes.hidden, "norm" in kind
        self.time_embedding = nn.Sequential(
            nn.Identity(),
            nn.Linear(sizes.time, 2 * sizes.time),
            nn.Mish(),
            nn.Linear(2 * sizes.time, sizes.time),
        )
        encoded = (sizes.obs, *sizes.encoder)
        self.cond_mlp = Chain(encoded, False) if sizes.encoder else nn.Identity()
        flat = sizes.chunk * sizes.act
        first = flat + sizes.time + encoded[-1]
        if "plain" in kind:
            self.mlp_mean = Chain([first, width, width, width, flat], norm)
        else:
            self.mlp_mean = nn.Module()
            act = nn.functional.relu if "relu" in kind else nn.functional.mish
            block = Block(width, norm, act)
            self.mlp_mean.layers = nn.ModuleList(
                [nn.Linear(first, width), block, nn.Linear(width, flat)]
            )

    def forward(self, x, t, obs):
        half = self.sizes.time // 2
        angle = t * 10000.0 ** (-torch.arange(half, dtype=x.dtype) / (half - 1))
        time = self.time_embedding(torch.cat([angle.sin(), angle.cos()])[None])
        parts = [x.flatten(1), time.expand(len(x), -1), self.cond_mlp(obs)]
        h = torch.cat(parts, 1)
        if isinstance(self.mlp_mean, Chain):
            return self.mlp_mean(h).reshape(x.shape)
        for layer in self.mlp_mean.layers:
            h = layer(h)
        return h.reshape(x.shape)


def make_net(sizes, kind="residual", seed=0):
    """A network away from its initial values, norms and biases too."""
    torch.manual_seed(seed)
    net = Net(sizes, kind)
    for p in net.parameters():
        p.data += 0.02 / max(1, p.shape[-1] / 16) ** 0.5 * torch.randn_like(p)
    return net


class Critics(nn.Module):
    """Stable-Baselines3's ensemble: qf0, qf1, ..."""

    def __init__(self, num, inputs, width, depth):
        super().__init__()
        for i in range(num):
            layers, size = [], inputs
            for _ in range(depth):
                layers += [nn.Linear(size, width), nn.LayerNorm(width), nn.Tanh()]
                size = width
            self.add_module(f"qf{i}", nn.Sequential(*layers, nn.Linear(size, 1)))

    def forward(self, obs, flat):
        x = torch.cat([obs, flat], -1)
        return torch.cat([critic(x) for critic in self.children()], 1).T


def make_critics(num, inputs, width, depth, seed=0, spread=20.0):
    """Critics whose values differ by some units, so that the weight w matters."""
    torch.manual_seed(seed)
    critics = Critics(num, inputs, width, depth)
    for critic in critics.children():
        for module in critic.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.data += 0.1 * torch.randn_like(module.weight)
                module.bias.data += 0.1 * torch.randn_like(module.bias)
        critic[-1].weight.data *= spread
    return critics


def to_bytes(content):
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def ddim_table(train_steps, steps):
    """(t, alpha, alpha_prev) of each step, noisiest first."""
    i = np.arange(train_steps + 1)
    signal = np.cos((i / train_steps + 0.008) / 1.008 * np.pi / 2) ** 2
    alphas = np.cumprod(1 - np.minimum(1 - signal[1:] / signal[:-1], 0.999))
    times = [k * (train_steps // steps) for k in reversed(range(steps))]
    values = [float(alphas[t]) for t in times]
    return list(zip(times, values, [*values[1:], 1.0], strict=True))


def mixed(early, late, table, ft_steps):
    """DPPO's fine-tuned sampling: the last `ft_steps` steps by `late`."""
    late_times = {t for t, *_ in table[len(table) - ft_steps :]}
    return lambda x, t, obs: (late if t in late_times else early)(x, t, obs)


def ddim_mean(net, x, obs, t, alpha, alpha_prev):
    x0 = (x - (1 - alpha) ** 0.5 * net(x, t, obs)) / alpha**0.5
    x0 = x0.clamp(-1, 1)
    eps = (x - alpha**0.5 * x0) / (1 - alpha) ** 0.5
    return alpha_prev**0.5 * x0 + (1 - alpha_prev) ** 0.5 * eps


@torch.no_grad()
def decode(net, x, obs, table):
    for step in table:
        x = ddim_mean(net, x, obs, *step)
    return x


@contextlib.contextmanager
def float32_sums(seed=0):
    """Errs in every linear layer as sums in float32 do, in the worst of their orders.

    A running sum rounds each partial sum by u = 2^-24 of it at most, u / sqrt(3) in the
    mean square. Of n products p of any signs the first k add up to sqrt(k / n) |p|, so
    that the whole is off by u sqrt(n / 6) |p|. In blocks and threads, whatever their
    number, fewer roundings meet each product.
    """
    generator = torch.Generator().manual_seed(seed)

    def err(module, inputs, output):
        if not isinstance(module, nn.Linear):
            return None
        squares = [v.detach() ** 2 for v in (inputs[0], module.weight, module.bias)]
        size = nn.functional.linear(*squares).sqrt()
        noise = torch.randn(size.shape, generator=generator, dtype=size.dtype)
        return output + 2.0**-24 * (module.in_features / 6) ** 0.5 * size * noise

    hook = nn.modules.module.register_module_forward_hook(err)
    try:
        yield
    finally:
        hook.remove()


def anneal(kind, k, steps):
    share = (k + 1) / steps
    table = {"off": 1.0, "linear": share, "cosine": 0.5 - 0.5 * np.cos(np.pi * share)}
    return table[kind]


@torch.no_grad()
def guided_decode(net, critics, x, obs, table, config, td_error):
    """SPEC section 4; `config` is a run's configuration. Gradients by autograd."""
    steps, options = len(table), config.guidance
    for k, (t, alpha, alpha_prev) in enumerate(table):
        x = ddim_mean(net, x, obs, t, alpha, alpha_prev)
        if k < steps - (options.last_k or steps):
            continue
        z = decode(net, x, obs, table[k + 1 :]).flatten(1)
        with torch.enable_grad():
            leaf = z.clone().requires_grad_()
            q = critics(obs, leaf)
            value = q.min(0).values if options.reduce == "min" else q.mean(0)
            (grad,) = torch.autograd.grad(value.sum(), leaf)
        q = q.detach()
        lam = options.scale * anneal(options.time_anneal, k, steps)
        if config.method == "dynvgd":
            local = torch.exp(-options.beta * q.std(0, correction=1) / options.c_local)
            w = local * np.exp(-options.beta * td_error / options.c_global)
            x0 = (z + lam * w.clamp(1e-3, 1)[:, None] * grad).clamp(-1, 1)
        else:
            x0 = z + lam * grad
        noise = net(x, t, obs)
        x = alpha_prev**0.5 * x0.reshape(x.shape) + (1 - alpha_prev) ** 0.5 * noise
    return x


def td_step(critics, targets, optimizer, batch, next_flat, config):
    """One gradient step in place; returns |q - y| `[N, B]`.

    `batch` is (obs, action, reward, next_obs, discount), with gamma in the discount.
    """
    obs, action, reward, next_obs, discount = batch
    with torch.no_grad():
        next_q = targets(next_obs, next_flat)
        low = config.target_reduce == "min"
        value = next_q.min(0).values if low else next_q.mean(0)
        y = reward + discount * value
        if config.target_clip:
            y = y.clamp(-config.target_clip, config.target_clip)
    q = critics(obs, action)
    loss = 0.5 * sum(nn.functional.mse_loss(q_i, y) for q_i in q)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for target, current in zip(targets.parameters(), critics.parameters()):
            target.lerp_(current, config.target_tau)
        return (q - y).abs()
