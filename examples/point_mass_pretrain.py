"""A base policy for the point mass from its demonstrations; docs/own.md."""

from configs import can_pretrain


def get_config(preset: str = ""):
    """Returns the configuration: half a minute on two CPU cores."""
    config = can_pretrain.get_config(preset).unlock()
    config.task = "examples.point_mass:reach"
    config.dataset = "data/point_mass/train.npz"
    config.network.hidden_dims = (64, 64, 64)
    config.learning_rate = 1e-3
    config.num_steps = config.eval.every_steps = 2_000
    return config.lock()
