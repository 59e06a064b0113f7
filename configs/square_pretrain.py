"""A base diffusion policy for Square from demonstrations."""

from configs import can_pretrain


def get_config(preset: str = ""):
    """Returns the pre-training of Square: the published, larger network."""
    config = can_pretrain.get_config().unlock()
    config.task = "square"
    config.dataset = "data/square/train.npz"
    # Training timesteps, widths, and the observation encoder: published for Square.
    config.num_train_timesteps = 100
    config.network.time_dim = 32
    config.network.hidden_dims = (1024, 1024, 1024)
    config.network.cond_dims = (512, 64)
    config.num_steps = 20_000
    config.eval.every_steps = 5_000
    return can_pretrain.with_preset(config, preset)
