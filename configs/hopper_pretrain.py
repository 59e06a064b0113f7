"""A base diffusion policy for Hopper from demonstrations; the others start here."""

from configs import can_pretrain


def get_config(preset: str = ""):
    """Returns the pre-training; preset "builtin" made the packaged policy."""
    return for_task("hopper", preset)


def for_task(task: str, preset: str, builtin_steps: int = 10_000):
    """Returns the pre-training of a gym task: DPPO's layout of all of them.

    `builtin_steps` are the gradient steps of the preset.
    """
    config = can_pretrain.get_config().unlock()
    config.task = task
    config.dataset = f"data/{task}/train.npz"
    # DPPO's, as T = 20, chunks of 4, a time embedding of 16 and a residual trunk of
    # three times 512 are, which `can_pretrain` has.
    config.network.activation = "relu"
    config = can_pretrain.with_preset(config, preset).unlock()
    if preset == "builtin":
        # Narrower than DPPO's, so that the package stays small.
        config.network.hidden_dims = (256, 256, 256)
        config.num_steps = builtin_steps
        config.eval.every_steps = builtin_steps // 2
    return config.lock()
