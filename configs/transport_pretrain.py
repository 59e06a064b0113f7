"""A base diffusion policy for Transport from demonstrations."""

from configs import can_pretrain


def get_config(preset: str = ""):
    """Returns the pre-training of Transport: the published, largest network.

    The preset "builtin" made the packaged policy.
    """
    config = can_pretrain.get_config().unlock()
    config.task = "transport"
    config.dataset = "data/transport/train.npz"
    # Chunk, training timesteps, widths and DDIM steps: published for Transport.
    config.chunk_len = 8
    config.num_train_timesteps = 100
    config.network.time_dim = 32
    config.network.hidden_dims = (2048, 2048, 2048)
    config.eval.ddim_steps = 10
    config = can_pretrain.with_preset(config, preset).unlock()
    if preset == "builtin":
        # The published widths would make weights of 36 MB; these have 2.7 MB.
        config.network.hidden_dims = (512, 512, 512)
        config.num_steps, config.eval.every_steps = 100_000, 20_000
        # From `randn` it succeeds a third as often: docs/base_policies.md.
        config.eval.noise = "tanh_randn"
    return config.lock()
