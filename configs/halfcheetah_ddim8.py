"""Dynamic VGD on HalfCheetah with 8 DDIM steps; see Hopper's."""

from configs import hopper_ddim8


def get_config(preset: str = ""):
    """Returns the run's configuration; presets: "" (full size) and "quick"."""
    return hopper_ddim8.for_task("halfcheetah", preset)
