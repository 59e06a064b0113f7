"""Steers the point mass' base policy; docs/own.md."""

from configs import base


def get_config(preset: str = ""):
    """Returns the configuration: `:quick` of Can and Square, smaller still."""
    config = base.with_preset(base.get_config(), preset or "quick")
    config.task = "examples.point_mass:reach"
    config.base_policy = "runs/point_mass_pretrain-seed0/policy"
    config.total_env_steps = 24_576
    config.first_rollout_env_steps = 8_192
    config.utd = 8
    config.critic.width = 64
    config.critic.initial_value = -20.0  # near the mean return
    config.eval.every_env_steps = 12_288
    config.eval.episodes = 100
    config.checkpoint.every_env_steps = 8_192
    return config
