"""`:quick` on Square with one thing changed at a time: docs/results/proposals.md."""

from ml_collections import ConfigDict

from configs import factors_can, square_ddim8


def get_config(preset: str = "") -> ConfigDict:
    """Returns the job; presets: see `factors_can.with_preset`."""
    return factors_can.with_preset("square", square_ddim8, preset)
