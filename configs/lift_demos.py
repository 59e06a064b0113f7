"""Demonstrations for Lift by a mixture of scripted operators."""

from ml_collections import ConfigDict


def get_config(preset: str = "") -> ConfigDict:
    """Returns the configuration; the preset "quick" collects a tenth."""
    config = ConfigDict()
    config.job = "demos"
    config.task = "lift"
    # Seed of the operators' order, of the resets and of the experts' noise.
    config.seed = 0
    # Episodes, successful or not; all are kept.
    config.num_episodes = 400
    # Environments that run at once; the demonstrations do not depend on it.
    config.num_envs = 4
    # Share of each operator (dynvgd_jax/demos/experts.py), relative to their sum.
    config.operators = ConfigDict(
        {
            "careful": 0.13,
            "swift": 0.08,
            "high": 0.48,
            "beside": 0.31,
        }
    )
    # Standard deviation of the smooth noise on waypoints, m.
    config.waypoint_noise_m = 0.025
    # Standard deviation of the white noise on the six pose actions (range -1 to 1).
    config.action_noise = 0.05
    # Control steps recorded after success, and after stopping without success: long,
    # so that a policy that has given up seldom starts anew.
    config.hover_steps = 20
    config.rest_steps = 80

    config.env = ConfigDict()
    # "compiled", or "robosuite" for its own Python step (same physics, 5x slower).
    config.env.engine = "compiled"
    # Threads that step environments; 0 takes one per core.
    config.env.num_threads = 0

    if preset == "quick":
        config.num_episodes //= 10
    elif preset:
        raise ValueError(f"unknown preset {preset!r}, expected none or 'quick'")
    return config.lock()
