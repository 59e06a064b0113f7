"""Runs one job from a clone: dynvgd_jax/launch.py, which --help prints."""

import sys

from dynvgd_jax.core.errors import missing_package

try:
    from dynvgd_jax.launch import main
except ModuleNotFoundError as error:  # such as outside the virtual environment
    print(f"launch.py: {missing_package(error)}", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    sys.exit(main(sys.argv))
