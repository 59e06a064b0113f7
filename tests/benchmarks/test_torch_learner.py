"""The PyTorch writing of the published call computes what ours does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from benchmarks.torch_learner import TorchLearner, make_critics
from dynvgd_jax.core.types import Transition
from dynvgd_jax.diffusion.network import DiffusionMLP, init_params
from dynvgd_jax.diffusion.policy import decode_eps_fn
from dynvgd_jax.diffusion.schedule import cosine_schedule, ddim_schedule
from dynvgd_jax.replay import ring as replay_lib
from dynvgd_jax.steering import vgd
from dynvgd_jax.steering.critics import td
from dynvgd_jax.steering.critics.mlp import CriticEnsemble
from dynvgd_jax.steering.guidance import Guidance
from dynvgd_jax.torch_weights.layouts import from_flax

UTD, BATCH, OBS, CHUNK = 3, 16, 5, (4, 2)


@pytest.mark.slow
def test_acting_and_training_call_agree_with_ours():
    network = DiffusionMLP(OBS, 2, 4, time_dim=8, hidden_dims=(16,) * 3, cond_dims=(9,))
    weights = init_params(network, jax.random.key(0))
    schedule = ddim_schedule(cosine_schedule(20), 4)
    config = vgd.VgdConfig(
        Guidance(scale=0.05, last_k=2), td.TdConfig(0.9), 1e-3, BATCH, UTD
    )
    ensemble = CriticEnsemble(num=3, width=16, depth=2)
    make = lambda params: decode_eps_fn(network, params)  # noqa: E731
    method = vgd.make_vgd(config, ensemble, schedule, make, OBS, CHUNK)
    state = method.init(jax.random.key(1))
    tensors = {
        name: torch.from_numpy(array.copy())
        for name, array in from_flax(network, weights).items()
    }
    theirs = TorchLearner(
        config, schedule, tensors, "mish", CHUNK, jax.device_get(state.critic.params)
    )

    rng = np.random.default_rng(0)
    stored = Transition(
        *(
            jnp.float32(rng.uniform(-1, 1, shape))
            for shape in ((90, OBS), (90, 8), (90,), (90, OBS), (90,))
        )
    )
    replay = replay_lib.add(replay_lib.init_replay(100, OBS, 8), stored)
    key = jax.random.key(2)
    out, metrics = jax.jit(method.update)(state, replay, weights, key, 0)

    sample_key, noise_key = jax.random.split(key)
    batches = replay_lib.sample(replay, sample_key, (UTD, BATCH))
    noise = np.array(jax.random.normal(noise_key, (UTD, BATCH, *CHUNK)))
    losses = []
    for i in range(UTD):
        batch = Transition(*(torch.from_numpy(np.array(leaf[i])) for leaf in batches))
        losses.append(theirs.gradient_step(batch, torch.from_numpy(noise[i]))["loss"])
    np.testing.assert_allclose(np.mean(losses), metrics["train/critic_loss"], rtol=1e-4)
    wanted = make_critics(jax.device_get(out.critic.target_params))
    for found, expected in zip(theirs.targets.parameters(), wanted.parameters()):
        np.testing.assert_allclose(found.detach(), expected.detach(), atol=2e-6)
    wanted = make_critics(jax.device_get(out.critic.params))
    for found, expected in zip(theirs.critics.parameters(), wanted.parameters()):
        np.testing.assert_allclose(found.detach(), expected.detach(), atol=2e-5)

    theirs.td_error = float(out.td_error)
    obs = np.array(batches.obs[0])
    ours, stats = jax.jit(method.act)(out, weights, obs, noise[0], 0)
    chunk = theirs.act(torch.from_numpy(obs), torch.from_numpy(noise[0]))
    np.testing.assert_allclose(chunk, ours, atol=2e-5)
    assert len(theirs.stats) == 2
    for name in ("q_pre", "q_post", "grad_norm"):
        found = np.mean([s[name] for s in theirs.stats])
        np.testing.assert_allclose(found, stats[f"guide/{name}"], rtol=1e-3)
