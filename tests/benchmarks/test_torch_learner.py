"""The PyTorch writing of the published call computes what ours does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from benchmarks.torch_learner import TorchLearner, make_critics
from configs import base
from dynvgd_jax.core.types import Transition
from dynvgd_jax.diffusion.ddim import make_ddim
from dynvgd_jax.diffusion.diffusion_mlp import decode_eps_fn
from dynvgd_jax.diffusion.network import DiffusionMLP, init_params
from dynvgd_jax.diffusion.schedule import cosine_schedule, ddim_schedule
from dynvgd_jax.replay import ring as replay_lib
from dynvgd_jax.steering import vgd
from dynvgd_jax.steering.base import Setting
from dynvgd_jax.torch_weights.layouts import from_flax
from dynvgd_jax.training.programs import call_on_ring
from dynvgd_jax.training.replay_memory import make_draw
from tests.steering.toy import inputs as act_inputs

UTD, BATCH, OBS, CHUNK = 3, 16, 5, (4, 2)


@pytest.mark.slow
def test_acting_and_training_call_agree_with_ours():
    network = DiffusionMLP(OBS, 2, 4, time_dim=8, hidden_dims=(16,) * 3, cond_dims=(9,))
    weights = init_params(network, jax.random.key(0))
    schedule = ddim_schedule(cosine_schedule(20), 4)
    config = base.get_config()
    config.guidance.scale, config.guidance.last_k = 0.05, 2
    config.gamma, config.learning_rate = 0.9, 1e-3
    config.batch_size, config.utd = BATCH, UTD
    config.critic.num, config.critic.width, config.critic.depth = 3, 16, 2
    denoiser = make_ddim(lambda params: decode_eps_fn(network, params), schedule)
    method = vgd.dynvgd(Setting(config, denoiser, OBS, CHUNK))
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
        ),
        ended=np.zeros(90, bool),
    )
    example = replay_lib.example_transition(OBS, 8)
    replay = replay_lib.add(replay_lib.init_replay(100, example), stored)
    key, draw = jax.random.key(2), make_draw(config)
    call = jax.jit(call_on_ring(method, draw))
    out, metrics = call(state, replay, weights, key, 0)

    sample_key, noise_key = jax.random.split(key)
    batches = replay_lib.sample(replay, sample_key, (UTD, BATCH), draw.window)
    noise = np.array(jax.random.normal(noise_key, (UTD, BATCH, *CHUNK)))
    losses = []
    for i in range(UTD):
        batch = jax.tree.map(
            lambda leaf, i=i: torch.from_numpy(np.array(leaf[i])), batches
        )
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
    decision = jax.jit(method.act)(out, weights, act_inputs(obs, noise[0]))
    ours, stats = decision.chunk, decision.metrics
    chunk = theirs.act(torch.from_numpy(obs), torch.from_numpy(noise[0]))
    np.testing.assert_allclose(chunk, ours, atol=2e-5)
    assert len(theirs.stats) == 2
    for name in ("q_pre", "q_post", "grad_norm"):
        found = np.mean([s[name] for s in theirs.stats])
        np.testing.assert_allclose(found, stats[f"guide/{name}"], rtol=1e-3)
