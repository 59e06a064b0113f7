"""A tiny training run in the toy environments of tests/support/reach.py."""

import jax
import numpy as np

from configs import base
from dynvgd_jax.core.normalize import Normalization
from dynvgd_jax.diffusion.network import DiffusionMLP, init_params
from dynvgd_jax.diffusion.policy import Policy
from dynvgd_jax.diffusion.policy_files import save_policy
from tests.support.reach import ReachEnv

VECTOR_STEP = 2 * ReachEnv.sizes.chunk_len


def random_policy(folder, obs_dim=4, kind="diffusion_mlp"):
    network = DiffusionMLP(
        obs_dim=obs_dim, action_dim=2, chunk_len=4, hidden_dims=(16, 16, 16)
    )
    ones = [np.ones(n, np.float32) for n in (obs_dim, 2)]
    norm = Normalization(-ones[0], ones[0], -ones[1], ones[1])
    params = init_params(network, jax.random.key(0))
    steps = 20 if kind == "diffusion_mlp" else 0
    save_policy(folder, Policy(network, params, steps, norm, "can", kind=kind))
    return folder


def tiny(policy, **changes):
    config = base.get_config()
    config.base_policy = str(policy)
    config.ddim_steps, config.guidance.last_k = 2, 1
    config.num_envs = 2
    config.first_rollout_env_steps = 10 * VECTOR_STEP
    config.total_env_steps = 24 * VECTOR_STEP
    config.utd, config.batch_size = 2, 16
    config.critic.num, config.critic.width, config.critic.depth = 2, 16, 1
    config.dsrl.actor_width, config.dsrl.actor_depth = 16, 1
    config.dsrl.distill_steps = 2
    config.eval.episodes = config.eval.num_envs = 3
    config.eval.every_env_steps = 12 * VECTOR_STEP
    config.checkpoint.every_env_steps = 12 * VECTOR_STEP
    config.log.every_env_steps = 4 * VECTOR_STEP
    config.update_from_flattened_dict(changes)
    return config.lock()


# Proposals in the replay buffer with all that they depend on: acting chooses from them,
# targets look past the time limit and over several chunks, at some of the proposals.
PROPOSALS = {
    "target_backup": "max",
    "target_proposals": 3,
    "target_n_step": 3,
    "bootstrap_at_time_limit": True,
    "guidance.candidates": 4,
    "guidance.scale": 0.0,
    "proposals.noises": ("tanh_randn", "randn"),
}

# Several checkpoints, none of them where something is logged; the buffer's first
# transitions are overwritten from vector step 16 on.
MANY_CHECKPOINTS = {
    "checkpoint.every_env_steps": 5 * VECTOR_STEP,
    "replay.capacity": 30,
}
