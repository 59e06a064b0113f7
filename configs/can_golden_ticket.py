"""Golden ticket on Can: the best fixed start noise of many, found by rollouts."""

from configs import base


def get_config(preset: str = ""):
    """Returns the run's configuration; presets: "" and "quick"."""
    config = base.get_config()
    config.task = "can"
    config.method = "golden_ticket"
    config.ddim_steps = 8
    config.first_rollout_env_steps = 0
    # 64 tickets, some 25 episodes of 300 control steps each.
    config.total_env_steps = 480_000
    config.num_envs = 16
    config.eval.every_env_steps = 120_000
    return base.apply_preset(config, preset, {"quick": _quick})


def _quick(config) -> None:
    """Fewer tickets and episodes, for a first look: minutes on two CPU cores."""
    config.golden_ticket.num_tickets = 16
    config.total_env_steps = 96_000
    config.eval.every_env_steps = 48_000
    config.eval.num_envs = 20
