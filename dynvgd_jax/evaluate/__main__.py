"""`python -m dynvgd_jax.evaluate`: command.py, which --help prints."""

import sys

from dynvgd_jax.core.begin import main_of

main = main_of("dynvgd_jax.evaluate.command", "dynvgd_jax.evaluate")

if __name__ == "__main__":
    sys.exit(main(sys.argv))
