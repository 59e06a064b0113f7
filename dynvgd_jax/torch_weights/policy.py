"""Converts a DPPO policy, and proves that the written one is the same."""

import importlib.metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch

from dynvgd_jax.diffusion.policy import (
    BASE,
    FINE_TUNED,
    Policy,
    load_policy,
    make_eps_fn,
    save_policy,
)
from dynvgd_jax.diffusion.schedule import cosine_schedule
from dynvgd_jax.envs.normalize import load_normalization
from dynvgd_jax.envs.tasks import get_task
from dynvgd_jax.errors import UserError
from dynvgd_jax.runs.durable import new_folder, refuse_existing
from dynvgd_jax.torch_weights.checkpoint import Checkpoint, read_checkpoint
from dynvgd_jax.torch_weights.files import sha256
from dynvgd_jax.torch_weights.forward import predict_noise
from dynvgd_jax.torch_weights.layouts import infer_network, to_flax

MAX_DIFFERENCE = 1e-4
_CHECK_ROWS = 64
# Published training timesteps T; tensors do not tell.
TRAIN_TIMESTEPS = {"can": 20, "lift": 20, "square": 100, "transport": 100}


def convert_policy(
    source: str | Path,
    output: str | Path,
    task: str,
    *,
    normalization: str | Path | None = None,
    weights: str | None = None,
    num_train_timesteps: int | None = None,
    activation: str = "mish",
    ft_denoising_steps: int | None = None,
) -> float:
    """Writes the policy folder `output` and returns the largest difference to torch.

    The folder appears only after the policy, read back from the disk, has predicted
    what the torch network predicts, within 1e-4 on random inputs.

    Args:
      source: DPPO's `.pt` file.
      output: new folder.
      task: robosuite task, a key of `envs.tasks.TASKS`.
      normalization: DPPO's npz; None is `normalization.npz` beside `source`.
      weights: "ema" or "model"; None is "ema" where the file has it.
      num_train_timesteps: T; None is the task's published one.
      activation: of the trunk, "mish" or "relu".
      ft_denoising_steps: last steps by the fine-tuned network, of fine-tuned files.

    Raises:
      UserError: whatever does not fit, or the two networks differ.
    """
    refuse_existing(Path(output))
    checkpoint = read_checkpoint(source, weights)
    policy = _build(
        checkpoint,
        task,
        Path(normalization or Path(source).with_name("normalization.npz")),
        num_train_timesteps or TRAIN_TIMESTEPS[get_task(task).name],
        activation,
        ft_denoising_steps,
    )
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
    return difference


def largest_difference(policy: Policy, checkpoint: Checkpoint) -> float:
    """Returns max |eps_jax - eps_torch| over random inputs, for each network."""
    rng = np.random.default_rng(0)
    chunk = (policy.chunk_len, policy.action_dim)
    x_t = rng.normal(size=(_CHECK_ROWS, *chunk)).astype(np.float32)
    t = rng.integers(0, policy.schedule.num_train_timesteps, _CHECK_ROWS)
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
            eps_fn = jax.jit(make_eps_fn(policy.network, params))
            found = np.asarray(eps_fn(x_t, jnp.asarray(t, jnp.int32), obs))
        # maximum, unlike max, lets NaN through: it is then above the bound.
        worst = float(np.maximum(worst, np.abs(found - expected).max()))
    return worst


def _build(checkpoint, task, norm_path, num_train, activation, ft_steps) -> Policy:
    source = str(checkpoint.path)
    norm = load_normalization(norm_path)
    network = infer_network(source, checkpoint.base, len(norm.action_min), activation)
    params = to_flax(source, network, checkpoint.base)
    if checkpoint.fine_tuned is None:
        if ft_steps is not None:
            raise UserError(f"{source} is not fine-tuned; drop --ft_denoising_steps")
    else:
        if ft_steps is None or not 1 <= ft_steps <= num_train:
            raise UserError(
                f"{source} is fine-tuned: found --ft_denoising_steps={ft_steps}, "
                f"expected 1 to {num_train}, the value of its training"
            )
        late = to_flax(source, network, checkpoint.fine_tuned)
        params = {BASE: params, FINE_TUNED: late}
    if len(norm.obs_min) != network.obs_dim:
        raise UserError(
            f"{norm_path} has {len(norm.obs_min)} observation entries, expected "
            f"{network.obs_dim} as in {source}; give this policy's own normalization"
        )
    policy = Policy(
        network=network,
        params=params,
        schedule=cosine_schedule(num_train),
        normalization=norm,
        task=task,
        metadata={
            "converted_from": checkpoint.path.name,
            "sha256": sha256(checkpoint.path),
            "layout": checkpoint.layout,
            "weights": checkpoint.weights,
            "torch": importlib.metadata.version("torch"),
        },
        ft_denoising_steps=ft_steps or 0,
    )
    expected = get_task(task)
    policy.require_fit(expected.obs_dim, expected.action_dim, expected.chunk_len)
    return policy
