"""`python -m dynvgd_jax.report`: command.py, which --help prints."""

import sys

from dynvgd_jax.core.begin import main_of

main = main_of("dynvgd_jax.report.command", "dynvgd_jax.report")

if __name__ == "__main__":
    sys.exit(main(sys.argv))
