"""Float64 NumPy critics, guided decode, and TD step, written apart from the package.

Gradients are worked out by hand, so that nothing here shares code or automatic
differentiation with what it checks. `eps_fn(x, t, obs)` is any NumPy noise predictor.
"""

import numpy as np

from tests.support.reference import ddim_mean, flow_decode, flow_line

EPS = 1e-5


def critic_forward(params, x):
    """params: dict hidden_i/norm_i/out of one critic; x [B, in]; returns q, tape."""
    tape = []
    h = np.asarray(x, np.float64)
    depth = sum(name.startswith("hidden") for name in params)
    for i in range(depth):
        w, b = params[f"hidden_{i}"]["kernel"], params[f"hidden_{i}"]["bias"]
        pre = h @ w + b
        centred = pre - pre.mean(-1, keepdims=True)
        inv = 1 / np.sqrt((centred**2).mean(-1, keepdims=True) + EPS)
        normed = centred * inv
        out = np.tanh(
            normed * params[f"norm_{i}"]["scale"] + params[f"norm_{i}"]["bias"]
        )
        tape.append((h, normed, inv, out))
        h = out
    q = h @ params["out"]["kernel"][:, 0] + params["out"]["bias"][0]
    return q, (tape, h)


def critic_backward(params, tape_and_last, dq):
    """Returns (gradient of x, gradients of the parameters) for dq [B]."""
    tape, last = tape_and_last
    grads = {
        "out": {"kernel": last.T @ dq[:, None], "bias": dq.sum(keepdims=True)},
    }
    dh = dq[:, None] * params["out"]["kernel"][:, 0]
    for i in reversed(range(len(tape))):
        h, normed, inv, out = tape[i]
        da = dh * (1 - out**2)
        grads[f"norm_{i}"] = {"scale": (da * normed).sum(0), "bias": da.sum(0)}
        dn = da * params[f"norm_{i}"]["scale"]
        dpre = inv * (
            dn
            - dn.mean(-1, keepdims=True)
            - normed * (dn * normed).mean(-1, keepdims=True)
        )
        grads[f"hidden_{i}"] = {"kernel": h.T @ dpre, "bias": dpre.sum(0)}
        dh = dpre @ params[f"hidden_{i}"]["kernel"].T
    return dh, grads


def unstack(params):
    """Flax ensemble parameters -> list of float64 dicts, one a critic."""
    stacked = params["params"]["critics"]
    num = stacked["out"]["bias"].shape[0]
    return [
        {
            layer: {k: np.asarray(v, np.float64)[i] for k, v in leaves.items()}
            for layer, leaves in stacked.items()
        }
        for i in range(num)
    ]


def ensemble_q(critics, obs, flat):
    x = np.concatenate([obs, flat], -1)
    return np.stack([critic_forward(c, x)[0] for c in critics])


def value_gradient(critics, obs, flat, reduce):
    """d/d flat of the sum over the batch of min_i or mean_i q_i; and q [N, B]."""
    x = np.concatenate([obs, flat], -1)
    passes = [critic_forward(c, x) for c in critics]
    q = np.stack([p[0] for p in passes])
    grad = np.zeros_like(flat, dtype=np.float64)
    for i, critic in enumerate(critics):
        if reduce == "min":
            share = (np.argmin(q, 0) == i).astype(np.float64)
        else:
            share = np.full(q.shape[1], 1 / len(critics))
        grad += critic_backward(critic, passes[i][1], share)[0][:, obs.shape[1] :]
    return grad, q


def anneal(kind, k, steps):
    if kind == "off":
        return 1.0
    share = (k + 1) / steps
    return share if kind == "linear" else 0.5 - 0.5 * np.cos(np.pi * share)


def guided_chunk(critics, z, obs, k, steps, options, td_error):
    """SPEC section 4, items 2 to 5: the clean chunk that step k goes on from."""
    flat = z.reshape(len(z), -1)
    grad, q = value_gradient(critics, obs, flat, options.reduce)
    w = np.ones(len(z))
    if options.dynamic:
        trust = options.weighting
        w = np.exp(-trust.beta * q.std(0, ddof=1) / trust.c_local)
        w = w * np.exp(-trust.beta * td_error / trust.c_global)
        w = np.clip(w, 1e-3, 1)
    lam = options.scale * anneal(options.time_anneal, k, steps)
    x0 = flat + lam * w[:, None] * grad
    if options.dynamic:
        x0 = np.clip(x0, -1, 1)
    return x0.reshape(z.shape)


def guided_decode(eps_fn, t, alpha, alpha_prev, critics, x, obs, options, td_error):
    """SPEC section 4, item by item; `options` has the fields of `Guidance`."""
    t, alpha, alpha_prev = (np.asarray(v, np.float64) for v in (t, alpha, alpha_prev))
    steps = len(t)
    last_k = options.last_k or steps
    x = np.asarray(x, np.float64)
    for k in range(steps):
        before = x
        x = ddim_mean(eps_fn, x, obs, t[k], alpha[k], alpha_prev[k])
        if k < steps - last_k or (options.first_k and k >= options.first_k):
            continue
        z = x
        for j in range(k + 1, steps):
            z = ddim_mean(eps_fn, z, obs, t[j], alpha[j], alpha_prev[j])
        if options.point == "estimate":
            # x0_hat is where the step would end if it were the last one.
            z = ddim_mean(eps_fn, before, obs, t[k], alpha[k], 1.0)
        x0 = guided_chunk(critics, z, obs, k, steps, options, td_error)
        a_prev = alpha_prev[k]
        if options.point == "estimate":
            x = x + np.sqrt(a_prev) * (x0 - z)  # the same noise, another clean action
            continue
        x = np.sqrt(a_prev) * x0 + np.sqrt(1 - a_prev) * eps_fn(x, t[k], obs)
    return x


def guided_flow(velocity_fn, steps, critics, x, obs, options, td_error):
    """Euler's method in `steps`, guided; noise is read off the line at the new time."""
    x = np.asarray(x, np.float64)
    for k in range(steps):
        velocity, end = flow_line(velocity_fn, x, k / steps, obs)
        x = x + velocity / steps
        if k < steps - (options.last_k or steps):
            continue
        if options.first_k and k >= options.first_k:
            continue
        own = options.point == "estimate"
        z = end if own else flow_decode(velocity_fn, x, obs, steps, k + 1)
        x0 = guided_chunk(critics, z, obs, k, steps, options, td_error)
        t = (k + 1) / steps
        if own or t == 1:
            x = x + t * (x0 - z)  # the same noise, another clean action
        else:
            velocity, end = flow_line(velocity_fn, x, t, obs)
            x = t * x0 + (1 - t) * (end - velocity)
    return x


def td_step(
    critics, targets, moments, step, batch, next_flat, lr, tau, reduce="min", clip=400.0
):
    """One Adam and one Polyak step in place; returns the loss and |q - y|."""
    next_q = ensemble_q(targets, batch.next_obs, next_flat)
    value = next_q.min(0) if reduce == "min" else next_q.mean(0)
    y = batch.reward + batch.discount * value
    if clip > 0:
        y = np.clip(y, -clip, clip)
    x = np.concatenate([batch.obs, batch.action], -1)
    loss, errors = 0.0, []
    for critic, target, (m, v) in zip(critics, targets, moments, strict=True):
        q, tape = critic_forward(critic, x)
        loss += 0.5 * np.mean((q - y) ** 2)
        errors.append(np.abs(q - y))
        _, grads = critic_backward(critic, tape, (q - y) / len(y))
        for layer, leaves in grads.items():
            for name, g in leaves.items():
                g = g.reshape(critic[layer][name].shape)
                m[layer][name] = 0.9 * m[layer][name] + 0.1 * g
                v[layer][name] = 0.999 * v[layer][name] + 0.001 * g**2
                m_hat = m[layer][name] / (1 - 0.9**step)
                v_hat = v[layer][name] / (1 - 0.999**step)
                critic[layer][name] -= lr * m_hat / (np.sqrt(v_hat) + 1e-8)
                target[layer][name] *= 1 - tau
                target[layer][name] += tau * critic[layer][name]
    return loss, np.stack(errors)


def zeros_like(critics):
    return [
        {layer: {k: np.zeros_like(v) for k, v in d.items()} for layer, d in c.items()}
        for c in critics
    ]
