"""Lowers for CUDA, in a process without tests/conftest.py, what uses a policy.

Prints one line for each precision that it is given: every function's name and the
precisions of its products.
"""

import json
import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np

from configs import base, can_pretrain
from dynvgd_jax.audit.subject import make_subject
from dynvgd_jax.core.normalize import Normalization
from dynvgd_jax.core.types import Transition
from dynvgd_jax.diffusion import cloning
from dynvgd_jax.diffusion.diffusion_mlp import BASE, FINE_TUNED
from dynvgd_jax.diffusion.kinds import KINDS
from dynvgd_jax.diffusion.network import DiffusionMLP, init_params
from dynvgd_jax.diffusion.policy import Policy
from dynvgd_jax.steering.base import ActInputs
from dynvgd_jax.steering.methods import build_method
from dynvgd_jax.training import pretrain

NETWORK = DiffusionMLP(5, 2, 4, hidden_dims=(16, 16, 16), cond_dims=(8, 8))
OBS, NOISE = jnp.zeros((3, 5)), jnp.zeros((3, 4, 2))


def products(function, *inputs) -> list[str]:
    """The different precisions of all products in what CUDA would be given."""
    lowered = jax.jit(function).trace(*inputs).lower(lowering_platforms=("cuda",))
    found = re.findall(r"dot_general.*", lowered.as_text())
    text = [re.search(r"precision = \[(\w+), (\w+)\]", line) for line in found]
    return sorted({m[0] if m else "none said" for m in text})


def policies():
    ones = [np.ones(n, np.float32) for n in (5, 2)]
    norm = Normalization(-ones[0], ones[0], -ones[1], ones[1])
    params = init_params(NETWORK, jax.random.key(0))
    plain = Policy(NETWORK, params, 20, norm, "reach")
    both = {BASE: params, FINE_TUNED: params}
    return plain, Policy(NETWORK, both, 20, norm, "reach", ft_denoising_steps=2)


def pretraining(precision, params):
    config = can_pretrain.get_config().unlock()
    config.precision, config.num_train_timesteps = precision, 20
    recipe = cloning.Recipe(num_steps=10, batch_size=4)
    kind, spec = KINDS["diffusion_mlp"], policies()[0].spec
    chunks = cloning.make_chunks(np.zeros((9, 5)), np.zeros((9, 2)), [9], 4)
    key = jax.random.key(0)
    state = cloning.init_state(kind, spec, recipe, key)

    def update(state, chunks):
        statics = (kind, spec, recipe, precision)
        return pretrain._update(*statics, state, key, chunks, 2)

    validate = cloning.make_validation(kind, spec, chunks, key, precision=precision)
    run = types.SimpleNamespace(config=config, kind=kind, spec=spec)
    decode = pretrain._Run._make_decode(run)
    seeds = np.arange(3)
    return {
        "pretrain update": (update, state, chunks),
        "pretrain validation": (validate, params),
        "pretrain decode": (decode, params, OBS, seeds, seeds),
    }


def steering(precision, policy):
    config = base.get_config()
    config.precision, config.ddim_steps, config.guidance.last_k = precision, 2, 1
    config.critic.num, config.critic.width, config.critic.depth = 2, 16, 1
    method = build_method(config, policy)
    learner = method.init(jax.random.key(0))._replace(num_updates=jnp.int32(1))
    agent = types.SimpleNamespace(
        config=config,
        policy=policy,
        method=method,
        learner=learner,
        env_steps=1,
        act=None,
    )
    audit = make_subject(agent, "randn", 0)
    inputs = ActInputs(OBS, jax.random.key(1), np.arange(3), np.arange(3))
    flat = NOISE.reshape(3, -1)
    batch = Transition(OBS, flat, flat[:, 0], OBS, flat[:, 0], flat[:, 0] > 0)
    batches = jax.tree.map(lambda leaf: leaf[None], batch)
    key = jax.random.key(2)
    return {
        "update": (method.update, learner, policy.params, batches, key, 0),
        "audit": (audit.decode, OBS, NOISE),
        "audit judge": (audit.judge, OBS, NOISE),
        "act": (method.act, learner, policy.params, inputs),
        "explore": (method.explore, policy.params, inputs),
    }


def main(precision: str) -> None:
    plain, fine_tuned = policies()
    key = jax.random.key(0)
    said = {} if precision == "default" else {"precision": precision}
    functions = {
        "sample": (lambda o, n: plain.sample(o, n, **said), OBS, NOISE),
        "fine-tuned": (lambda o, n: fine_tuned.sample(o, n, **said), OBS, NOISE),
        "ddpm": (lambda o, n: plain.sample_ddpm(o, n, key, **said), OBS, NOISE),
    }
    if said:
        functions |= pretraining(precision, plain.params)
        functions |= steering(precision, plain)
    print(json.dumps({name: products(*call) for name, call in functions.items()}))


if __name__ == "__main__":
    for word in sys.argv[1:]:
        main(word)
