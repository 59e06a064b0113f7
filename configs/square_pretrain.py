"""A base policy for Square from demonstrations."""

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
    config = can_pretrain.with_preset(config, preset).unlock()
    if preset == "builtin":
        # The package holds the snapshot after 20,000: imperfect, as it is meant to be.
        # Before that the gripper's turn across the handle is hardly learned.
        config.num_steps, config.eval.every_steps = 30_000, 10_000
    return config.lock()
