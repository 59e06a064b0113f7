"""Runs one job from a clone: dynvgd_jax/launch.py, which --help prints."""

import sys

from dynvgd_jax.core.begin import main_of

main = main_of("dynvgd_jax.launch", "launch.py")

if __name__ == "__main__":
    sys.exit(main(sys.argv))
