"""Converts a policy of DPPO's network, and proves that the written one is the same."""

import functools
import importlib.metadata
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import torch

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.normalize import load_normalization
from dynvgd_jax.core.untrusted import sha256
from dynvgd_jax.diffusion.diffusion_mlp import BASE, FINE_TUNED
from dynvgd_jax.diffusion.network import bind
from dynvgd_jax.diffusion.policy import Policy
from dynvgd_jax.diffusion.policy_files import load_policy, save_policy
from dynvgd_jax.envs.base import task_sizes
from dynvgd_jax.runs.durable import new_folder, refuse_existing
from dynvgd_jax.torch_weights.checkpoint import Checkpoint, read_checkpoint
from dynvgd_jax.torch_weights.dppo_config import (
    FLOW,
    disagreements,
    read_dppo_config,
)
from dynvgd_jax.torch_weights.facts import Facts, gather
from dynvgd_jax.torch_weights.forward import predict_noise
from dynvgd_jax.torch_weights.layouts import infer_network, to_flax

MAX_DIFFERENCE = 1e-4
_CHECK_ROWS = 64


class ConvertedPolicy(NamedTuple):
    """What the conversion found."""

    task: str
    difference: float  # largest |jax - torch| of what the network predicts
    notes: list[str]  # what a user should know, one line each
    kind: str  # of policy, as configurations name it

    def agreement(self) -> str:
        """One line: what was compared, and what that does not cover."""
        predicted = "velocity" if self.kind == FLOW else "noise"
        return (
            f"the predicted {predicted} agrees with torch's within "
            f"{self.difference:.1e}; that covers the tensors, not what they cannot "
            "tell: task, T, activation and scale, or whether it is noise or a flow's "
            "velocity"
        )


def convert_policy(
    source: str | Path,
    output: str | Path,
    task: str | None = None,
    *,
    normalization: str | Path | None = None,
    weights: str | None = None,
    num_train_timesteps: int | None = None,
    activation: str | None = None,
    ft_denoising_steps: int | None = None,
    dppo_config: str | Path | None = None,
    policy_kind: str | None = None,
) -> ConvertedPolicy:
    """Writes the policy folder `output` and proves that it is the torch network.

    The folder appears only after the policy, read back from the disk, has predicted
    what the torch network predicts, within 1e-4 on random inputs.

    Args:
      source: DPPO's `.pt` file.
      output: new folder.
      task: as configurations name it; None asks `dppo_config`.
      normalization: DPPO's npz; None is `normalization.npz` beside `source`.
      weights: "ema" or "model"; None is "ema" where the file has it.
      num_train_timesteps: T; None asks the file, `dppo_config`, and the file's path.
      activation: of the trunk; None asks the file and `dppo_config`, then it is what
        DPPO's files of the task have, "relu" for gym tasks, else "mish".
      ft_denoising_steps: last steps by the fine-tuned network, of fine-tuned files;
        None asks as for T.
      dppo_config: DPPO's YAML; where it and the tensors differ in a size, the tensors
        are followed and a note says so.
      policy_kind: of facts.POLICY_KINDS; None asks the file, `dppo_config` and the
        file's path, then it is DPPO's, a diffusion.

    Raises:
      UserError: whatever does not fit, or the two networks differ.
    """
    refuse_existing(Path(output))
    said = None if dppo_config is None else read_dppo_config(dppo_config)
    checkpoint = read_checkpoint(source, weights)
    facts = gather(
        checkpoint.path,
        checkpoint.carried,
        said,
        {
            "task": task,
            "num_train_timesteps": num_train_timesteps,
            "activation": activation,
            "ft_denoising_steps": ft_denoising_steps,
            "policy_kind": policy_kind,
        },
        is_fine_tuned=checkpoint.fine_tuned is not None,
    )
    scale = Path(normalization or Path(source).with_name("normalization.npz"))
    policy = _build(checkpoint, facts, scale)
    with new_folder(output) as partial:
        save_policy(partial / "policy", policy)
        difference = largest_difference(load_policy(partial / "policy"), checkpoint)
        if not difference <= MAX_DIFFERENCE:
            raise UserError(
                f"{source}: the converted network differs from torch's by "
                f"{difference:.1e}, expected at most {MAX_DIFFERENCE}; nothing was "
                "written; the weights may be damaged"
            )
        for part in (partial / "policy").iterdir():
            part.rename(partial / part.name)
        (partial / "policy").rmdir()
    notes = [f"{facts.line()}, weights {checkpoint.weights or 'as they are'}, {scale}"]
    notes += [*facts.notes, *checkpoint.notes]
    note = None if said is None else disagreements(said, policy.network)
    notes += [note] if note else []
    return ConvertedPolicy(policy.task, difference, notes, policy.kind)


def largest_difference(policy: Policy, checkpoint: Checkpoint) -> float:
    """Returns max |jax - torch| over random inputs, for each network."""
    rng = np.random.default_rng(0)
    chunk = (policy.chunk_len, policy.action_dim)
    x_t = rng.normal(size=(_CHECK_ROWS, *chunk)).astype(np.float32)
    if policy.kind == FLOW:
        t = rng.random(_CHECK_ROWS, np.float32)
    else:
        t = rng.integers(0, policy.num_train_timesteps, _CHECK_ROWS, np.int32)
    obs = rng.uniform(-1, 1, (_CHECK_ROWS, policy.obs_dim)).astype(np.float32)
    pairs = [(policy.params, checkpoint.base)]
    if checkpoint.fine_tuned is not None:
        trees = (policy.params[BASE], policy.params[FINE_TUNED])
        pairs = list(zip(trees, (checkpoint.base, checkpoint.fine_tuned), strict=True))
    worst = 0.0
    for params, arrays in pairs:
        tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
        inputs = (torch.from_numpy(a) for a in (x_t, t, obs))
        expected = predict_noise(tensors, policy.network.activation, *inputs).numpy()
        with jax.default_matmul_precision("highest"):
            found = np.asarray(_predict(policy.network, params, x_t, t, obs))
        # maximum, unlike max, lets NaN through: it is then above the bound.
        worst = float(np.maximum(worst, np.abs(found - expected).max()))
    return worst


@functools.partial(jax.jit, static_argnums=0)
def _predict(network, params, x_t, t, obs):
    return bind(network, params)(x_t, t, obs)


def _build(checkpoint: Checkpoint, facts: Facts, norm_path: Path) -> Policy:
    source = str(checkpoint.path)
    norm = load_normalization(norm_path)
    activation = facts.activation.value
    network = infer_network(source, checkpoint.base, len(norm.action_min), activation)
    params = to_flax(source, network, checkpoint.base)
    if checkpoint.fine_tuned is not None:
        late = to_flax(source, network, checkpoint.fine_tuned)
        params = {BASE: params, FINE_TUNED: late}
    if len(norm.obs_min) != network.obs_dim:
        raise UserError(
            f"{norm_path} has {len(norm.obs_min)} observation entries, expected "
            f"{network.obs_dim} as in {source}; give this policy's own normalization"
        )
    steps, ft_steps = facts.num_train_timesteps, facts.ft_denoising_steps
    policy = Policy(
        network=network,
        params=params,
        num_train_timesteps=0 if steps is None else steps.value,
        normalization=norm,
        task=facts.task.value,
        metadata={
            "converted_from": checkpoint.path.name,
            "sha256": sha256(checkpoint.path),
            "layout": checkpoint.layout,
            "weights": checkpoint.weights,
            "said": facts.line(),
            "torch": importlib.metadata.version("torch"),
        },
        ft_denoising_steps=0 if ft_steps is None else ft_steps.value,
        kind=facts.policy_kind.value,
    )
    expected = task_sizes(policy.task)
    if expected is not None:  # other simulators tell when their environments are made
        policy.require_fit(*expected[:3])
    return policy
