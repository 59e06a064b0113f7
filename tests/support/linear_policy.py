"""A base policy of known chunks: linear in start noise and observation, clipped."""

import numpy as np

from dynvgd_jax.core.normalize import Normalization
from dynvgd_jax.diffusion.network import DiffusionMLP
from dynvgd_jax.diffusion.policy import Policy
from dynvgd_jax.diffusion.policy_files import save_policy
from tests.support.reference import ddim_times

TIME_DIM, TRAIN_STEPS = 4, 20


def save_linear_policy(folder, noise_gain, obs_gain, chunk_len):
    """Writes a policy that decodes `clip(noise_gain noise + obs @ obs_gain, -1, 1)`.

    With one DDIM step, whose x0 = (x - s eps) / a is solved for eps; a ReLU layer of
    each input and its negative passes it through.

    Args:
      folder: of the policy.
      noise_gain: of every number of the chunk.
      obs_gain: `[Do, Ta * Da]`.
      chunk_len: Ta.
    """
    obs_dim, flat = obs_gain.shape
    ((_, alpha, _),) = ddim_times(TRAIN_STEPS, 1)
    signal, noise = np.sqrt(alpha), np.sqrt(1 - alpha)
    eps_of_x = (1 - signal * noise_gain) / noise * np.eye(flat)
    eps = np.concatenate([eps_of_x, -signal / noise * obs_gain])
    rows = np.r_[:flat, flat + TIME_DIM : flat + TIME_DIM + obs_dim]
    passed = np.zeros((flat + TIME_DIM + obs_dim, len(eps)))
    passed[rows, np.arange(len(eps))] = 1
    network = DiffusionMLP(
        obs_dim=obs_dim,
        action_dim=flat // chunk_len,
        chunk_len=chunk_len,
        time_dim=TIME_DIM,
        hidden_dims=(2 * len(eps),),
        activation="relu",
        residual=False,
    )

    def layer(kernel):
        kernel = np.float32(kernel)
        return {"kernel": kernel, "bias": np.zeros(kernel.shape[1], np.float32)}

    params = {
        "time_0": layer(np.zeros((TIME_DIM, 2 * TIME_DIM))),
        "time_1": layer(np.zeros((2 * TIME_DIM, TIME_DIM))),
        "trunk_0": layer(np.concatenate([passed, -passed], axis=1)),
        "out": layer(np.concatenate([eps, -eps])),
    }
    ones = [np.ones(n, np.float32) for n in (obs_dim, network.action_dim)]
    norm = Normalization(-ones[0], ones[0], -ones[1], ones[1])
    save_policy(folder, Policy(network, params, TRAIN_STEPS, norm, "can"))
    return folder
