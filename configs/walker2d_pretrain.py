"""A base diffusion policy for Walker2d from demonstrations."""

from configs import hopper_pretrain


def get_config(preset: str = ""):
    """Returns the pre-training; presets as of Hopper's."""
    return hopper_pretrain.for_task("walker2d", preset, 20_000)
