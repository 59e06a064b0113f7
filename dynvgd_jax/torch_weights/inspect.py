"""Describes a DPPO file without changing anything."""

from pathlib import Path

from dynvgd_jax.diffusion.network import DiffusionMLP
from dynvgd_jax.errors import UserError
from dynvgd_jax.torch_weights.checkpoint import read_checkpoint
from dynvgd_jax.torch_weights.layouts import infer_network, to_flax


def describe(path: str | Path, weights: str | None, activation: str) -> str:
    """Returns layout, keys with shapes, and the inferred architecture as text.

    Without a normalisation the action size is unknown; the chunk is then shown flat.

    Raises:
      UserError: the file cannot be read or fits no layout.
    """
    checkpoint = read_checkpoint(path, weights)
    lines = [f"{path}: DPPO {checkpoint.layout} file, weights '{checkpoint.weights}'"]
    lines += [f"  {key} {list(a.shape)}" for key, a in checkpoint.base.items()]
    if checkpoint.fine_tuned is not None:
        lines.append("  the same keys once more, fine-tuned (actor_ft)")
    for prefix, count in checkpoint.unused.items():
        lines.append(f"  not used: {prefix}.* ({count} tensors)")
    try:
        network = infer_network(str(path), checkpoint.base, 1, activation)
        to_flax(str(path), network, checkpoint.base)
        lines.append(_architecture(network))
    except UserError as error:
        lines.append(f"architecture: {error}")
    return "\n".join(lines)


def _architecture(network: DiffusionMLP) -> str:
    return (
        f"architecture: observation {network.obs_dim}, action chunk (flat) "
        f"{network.chunk_len}, time_dim {network.time_dim}, "
        f"{'residual' if network.residual else 'plain'} trunk {network.hidden_dims}, "
        f"encoder {network.cond_dims or 'none'}, "
        f"LayerNorm {'on' if network.layer_norm else 'off'}"
    )
