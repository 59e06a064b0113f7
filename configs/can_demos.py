"""Demonstrations for Can by scripted operators; Lift and Square start here."""

from ml_collections import ConfigDict

from dynvgd_jax.core.fields import apply_preset


def get_config(preset: str = "") -> ConfigDict:
    """Returns the configuration; the preset "quick" collects a tenth."""
    config = ConfigDict()
    config.job = "demos"
    config.task = "can"
    # Seed of the operators' order, of the resets and of the experts' noise.
    config.seed = 0
    # Episodes, successful or not; all are kept.
    config.num_episodes = 400
    # Environments that run at once; the demonstrations do not depend on it.
    config.num_envs = 4
    # Share of each operator (dynvgd_jax/demos/experts.py), relative to their sum.
    config.operators = ConfigDict(
        {
            "careful": 0.38,
            "swift": 0.20,
            "crosswise": 0.10,
            "high": 0.10,
            "beside": 0.04,
            "hasty": 0.10,
            "edge": 0.08,
        }
    )
    # Standard deviation of the smooth noise on waypoints, m.
    config.waypoint_noise_m = 0.025
    # Standard deviation of the white noise on the six pose actions (range -1 to 1).
    config.action_noise = 0.05
    # Control steps recorded after success, and after stopping without success.
    config.hover_steps = 20
    config.rest_steps = 20

    config.env = ConfigDict()
    # "compiled", "exact" or "robosuite"; see configs/base.py.
    config.env.engine = "compiled"
    # Threads that step environments; 0 takes one per core that may be used.
    config.env.num_threads = 0

    return with_preset(config, preset)


def with_preset(config: ConfigDict, preset: str) -> ConfigDict:
    """Returns the locked configuration after the preset."""
    return apply_preset(config, preset, {"quick": _quick}).lock()


def _quick(config: ConfigDict) -> None:
    config.num_episodes //= 10
