"""Describes a DPPO file or a save of critics without changing anything."""

from pathlib import Path

from dynvgd_jax.core.errors import UserError
from dynvgd_jax.diffusion.network import DiffusionMLP
from dynvgd_jax.torch_weights.checkpoint import read_checkpoint
from dynvgd_jax.torch_weights.critics import (
    CURRENT,
    POLICY_MEMBER,
    TARGET,
    read_critics,
)
from dynvgd_jax.torch_weights.dppo_config import disagreements, read_dppo_config
from dynvgd_jax.torch_weights.files import holds_member
from dynvgd_jax.torch_weights.layouts import infer_network, to_flax


def describe(
    path: str | Path,
    weights: str | None = None,
    dppo_config: str | Path | None = None,
) -> str:
    """Returns layout, keys with shapes, and the inferred architecture as text.

    Without a normalisation the action size is unknown; the chunk is then shown flat.
    A zip of Stable-Baselines3 is told by its `policy.pth`. With `dppo_config` a line
    says whether that YAML agrees.

    Raises:
      UserError: the file cannot be read or fits no layout.
    """
    if holds_member(path, POLICY_MEMBER):
        return _describe_critics(path)
    said = None if dppo_config is None else read_dppo_config(dppo_config)
    checkpoint = read_checkpoint(path, weights)
    weights = f"weights '{checkpoint.weights}'" if checkpoint.weights else "state_dict"
    lines = [f"{path}: DPPO {checkpoint.layout} file, {weights}", *checkpoint.notes]
    lines += [f"  {key} {list(a.shape)}" for key, a in checkpoint.base.items()]
    if checkpoint.fine_tuned is not None:
        lines.append("  the same keys once more, fine-tuned (actor_ft)")
    for prefix, count in checkpoint.unused.items():
        lines.append(f"  not used: {prefix}.* ({count} tensors)")
    try:
        network = infer_network(str(path), checkpoint.base, 1, "mish")
        to_flax(str(path), network, checkpoint.base)
        lines.append(_architecture(network))
        if said is not None:
            text = disagreements(said, network, flat_chunk=True)
            lines.append(text or f"{said.path} agrees with the tensors")
    except UserError as error:
        lines.append(f"architecture: {error}")
    said_here = ", ".join(f"{k} {v}" for k, v in checkpoint.carried.items())
    lines.append(
        f"tensors do not tell kind, task, T, activation; said: {said_here or '-'}"
    )
    return "\n".join(lines)


def _architecture(network: DiffusionMLP) -> str:
    return (
        f"architecture: observation {network.obs_dim}, action chunk (flat) "
        f"{network.chunk_len}, time_dim {network.time_dim}, "
        f"{'residual' if network.residual else 'plain'} trunk {network.hidden_dims}, "
        f"encoder {network.cond_dims or 'none'}, "
        f"LayerNorm {'on' if network.layer_norm else 'off'}"
    )


def _describe_critics(path: str | Path) -> str:
    saved = read_critics(path)
    sizes = saved.ensemble
    lines = [f"{path}: Stable-Baselines3 save of VGD"]
    lines += [f"  {CURRENT}.{key} {list(a.shape)}" for key, a in saved.current.items()]
    lines.append(f"  the same keys once more, the targets ({TARGET})")
    for prefix, count in saved.unused.items():
        lines.append(f"  not used: {prefix}.* ({count} tensors)")
    moments = saved.moments
    text = "none" if moments is None else f"after {moments.count:,} gradient steps"
    lines.append(f"  Adam's moments: {text}")
    lines.append(
        f"architecture: {sizes.num} critics, {sizes.depth} hidden layers of "
        f"{sizes.width}, {saved.in_dim} inputs (observation and flat chunk)"
    )
    return "\n".join(lines)
