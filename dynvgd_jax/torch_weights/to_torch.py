"""Writes a policy folder as a DPPO file, so that nobody is locked in."""

from pathlib import Path

import torch

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.diffusion.diffusion_mlp import BASE, FINE_TUNED
from dynvgd_jax.diffusion.policy_files import load_policy
from dynvgd_jax.runs.durable import new_file, refuse_existing
from dynvgd_jax.torch_weights.dppo_config import FLOW
from dynvgd_jax.torch_weights.facts import CARRIED, POLICY_KINDS
from dynvgd_jax.torch_weights.files import load_torch
from dynvgd_jax.torch_weights.layouts import from_flax


def write_torch(folder: str, output: str | Path) -> None:
    """Writes `folder` (or `builtin:<task>`) as the `.pt` file `output`.

    A plain policy becomes a pre-training file, its weights under "model" and "ema"; a
    fine-tuned one a fine-tuning file with `actor`, `actor_ft` and `network`. What
    tensors cannot tell stands beside them, under a key that DPPO does not look at.

    The file appears only after its tensors, read back, have proved equal bit for bit.

    Raises:
      UserError: there is no such policy, or `output` exists or cannot be written.
    """
    refuse_existing(Path(output))
    policy = load_policy(folder)
    if policy.kind not in POLICY_KINDS:
        raise UserError(
            f"{folder} is a policy of kind {policy.kind!r}, expected one of "
            f"{', '.join(POLICY_KINDS)}: DPPO has no other network"
        )
    if policy.ft_denoising_steps:
        networks = {
            "network": policy.params[BASE],
            "actor": policy.params[BASE],
            "actor_ft": policy.params[FINE_TUNED],
        }
    else:
        networks = {"network": policy.params}
    state = {
        f"{prefix}.{key}": torch.from_numpy(array.copy())
        for prefix, params in networks.items()
        for key, array in from_flax(policy.network, params).items()
    }
    carried = {
        "task": policy.task,
        "num_train_timesteps": policy.num_train_timesteps,
        "activation": policy.network.activation,
    }
    if policy.kind == FLOW:
        del carried["num_train_timesteps"]
        carried["policy_kind"] = FLOW
    content = {"epoch": 0, "model": state, "ema": state}
    if policy.ft_denoising_steps:
        carried["ft_denoising_steps"] = policy.ft_denoising_steps
        content = {"itr": 0, "model": state}
    content[CARRIED] = carried
    with new_file(output) as file:
        torch.save(content, file)
        file.flush()
        back = load_torch(file.name)["model"]
        if any(not torch.equal(back[key], state[key]) for key in state):
            raise UserError(f"{output} did not come back bit for bit; write it again")
