"""`python -m dynvgd_jax.audit`: command.py, which --help prints."""

import sys

from dynvgd_jax.core.begin import main_of

main = main_of("dynvgd_jax.audit.command", "dynvgd_jax.audit")

if __name__ == "__main__":
    sys.exit(main(sys.argv))
