"""Independent float64 NumPy references of the diffusion policy and its decodes.

Written from the formulas, without JAX; slow and plain on purpose. Parameters are the
nested dicts of Flax, with any array type at the leaves.
"""

import numpy as np


def mish(x):
    return x * np.tanh(np.logaddexp(0.0, x))


def relu(x):
    return np.maximum(x, 0.0)


def layer_norm(x, params, eps):
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    scale, bias = np.float64(params["scale"]), np.float64(params["bias"])
    return (x - mean) / np.sqrt(variance + eps) * scale + bias


def dense(x, params):
    return x @ np.float64(params["kernel"]) + np.float64(params["bias"])


def time_features(t, dim):
    half = dim // 2
    rows = []
    for value in t:
        angles = [value * 10000.0 ** (-j / (half - 1)) for j in range(half)]
        rows.append([np.sin(a) for a in angles] + [np.cos(a) for a in angles])
    return np.array(rows)


def network(
    params,
    x,
    t,
    obs,
    *,
    time_dim,
    hidden_dims,
    cond_dims=(),
    activation="mish",
    residual=True,
    layer_norm_on=False,
):
    """DiffusionMLP's noise prediction `[B, Ta, Da]` for `t [B]`."""
    act = {"mish": mish, "relu": relu}[activation]
    time = dense(time_features(t, time_dim), params["time_0"])
    time = dense(mish(time), params["time_1"])
    condition = np.float64(obs)
    for i in range(len(cond_dims)):
        if i > 0:
            condition = act(condition)
        condition = dense(condition, params[f"cond_{i}"])
    h = np.concatenate([np.float64(x).reshape(len(x), -1), time, condition], axis=1)
    if residual:
        h = dense(h, params["trunk_in"])
        for i in range((len(hidden_dims) - 1) // 2):
            inner = h
            for layer, norm in (("l1", "norm1"), ("l2", "norm2")):
                if layer_norm_on:
                    inner = layer_norm(inner, params[f"block_{i}_{norm}"], 1e-6)
                inner = dense(act(inner), params[f"block_{i}_{layer}"])
            h = h + inner
    else:
        for i in range(len(hidden_dims)):
            h = dense(h, params[f"trunk_{i}"])
            if layer_norm_on:
                h = layer_norm(h, params[f"trunk_{i}_norm"], 1e-5)
            h = act(h)
    return dense(h, params["out"]).reshape(x.shape)


def alphas_cumprod(num_train_timesteps):
    """The cosine schedule's share of signal `[T]`, float64."""
    i = np.arange(num_train_timesteps + 1)
    abar = np.cos((i / num_train_timesteps + 0.008) / 1.008 * np.pi / 2) ** 2
    betas = np.minimum(1 - abar[1:] / abar[:-1], 0.999)
    return np.cumprod(1 - betas)


def ddim_times(num_train_timesteps, ddim_steps):
    """`(t, alpha, alpha_prev)` of each step, noisiest first."""
    abar = alphas_cumprod(num_train_timesteps)
    stride = num_train_timesteps // ddim_steps
    times = [k * stride for k in reversed(range(ddim_steps))]
    alphas = [abar[t] for t in times]
    return list(zip(times, alphas, alphas[1:] + [1.0], strict=True))


def ddim_mean(eps_fn, x, obs, t, alpha, alpha_prev):
    """One plain step; `eps_fn(x, t, obs)` takes `t` as an int."""
    eps = eps_fn(x, t, obs)
    x0 = np.clip((x - np.sqrt(1 - alpha) * eps) / np.sqrt(alpha), -1, 1)
    eps = (x - np.sqrt(alpha) * x0) / np.sqrt(1 - alpha)
    return np.sqrt(alpha_prev) * x0 + np.sqrt(1 - alpha_prev) * eps


def ddim_decode(
    eps_fn, noise, obs, num_train_timesteps, ddim_steps, guide_fn=None, guide_from_k=0
):
    """DDIM from `noise`; `guide_fn(obs, z, k)` returns the guided clean action x0."""
    steps = ddim_times(num_train_timesteps, ddim_steps)
    x = np.float64(noise)
    for k, (t, alpha, alpha_prev) in enumerate(steps):
        x = ddim_mean(eps_fn, x, obs, t, alpha, alpha_prev)
        if guide_fn is not None and k >= guide_from_k:
            z = x
            for later in steps[k + 1 :]:
                z = ddim_mean(eps_fn, z, obs, *later)
            x0 = guide_fn(obs, z, k)
            eps = eps_fn(x, t, obs)
            x = np.sqrt(alpha_prev) * x0 + np.sqrt(1 - alpha_prev) * eps
    return x


def ddpm_decode(eps_fn, noise, obs, num_train_timesteps, step_noise):
    """Ancestral sampling; `step_noise[t]` is the (already clipped) noise of step t."""
    abar = np.append(1.0, alphas_cumprod(num_train_timesteps))  # abar[t + 1] is step t
    x = np.float64(noise)
    for t in reversed(range(num_train_timesteps)):
        now, before = abar[t + 1], abar[t]
        beta = 1 - now / before
        eps = eps_fn(x, t, obs)
        x0 = np.clip((x - np.sqrt(1 - now) * eps) / np.sqrt(now), -1, 1)
        mean = np.sqrt(before) * beta * x0 + np.sqrt(1 - beta) * (1 - before) * x
        mean = mean / (1 - now)
        std = np.sqrt(beta * (1 - before) / (1 - now))
        x = mean + (max(std, 1e-3) * step_noise[t] if t > 0 else 0.0)
    return x


def flow_line(velocity_fn, x, t, obs):
    """Velocity at time t towards the clean chunk in [-1, 1], and that chunk."""
    end = np.clip(x + (1 - t) * velocity_fn(x, t, obs), -1, 1)
    return (end - x) / (1 - t), end


def flow_decode(velocity_fn, noise, obs, steps, first=0):
    """Euler's method from time `first` / `steps` to 1; `velocity_fn(x, t, obs)`."""
    x = np.float64(noise)
    for k in range(first, steps):
        x = x + flow_line(velocity_fn, x, k / steps, obs)[0] / steps
    return x
