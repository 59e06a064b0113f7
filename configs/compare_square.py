"""All methods on Square with several seeds, as one job: docs/compare.md."""

from ml_collections import ConfigDict

from configs import compare_can, square_ddim4, square_ddim8


def get_config(preset: str = "") -> ConfigDict:
    """Returns the comparison; presets: see `compare_can.with_preset`."""
    return compare_can.with_preset("square", square_ddim8, square_ddim4, preset)
