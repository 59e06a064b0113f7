"""Runs one job from a clone: dynvgd_jax/launch.py, which --help prints."""

import sys

from dynvgd_jax.launch import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
