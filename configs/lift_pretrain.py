"""A base diffusion policy for Lift from demonstrations."""

from configs import can_pretrain


def get_config(preset: str = ""):
    """Returns the pre-training of Lift: Can's network."""
    config = can_pretrain.get_config().unlock()
    config.task = "lift"
    config.dataset = "data/lift/train.npz"
    config.num_steps = 10_000
    config.eval.every_steps = 5_000
    config = can_pretrain.with_preset(config, preset).unlock()
    if preset == "builtin":
        # The package holds the snapshot after 2,000: imperfect, as it is meant to be.
        config.num_steps, config.eval.every_steps = 4_000, 2_000
    return config.lock()
