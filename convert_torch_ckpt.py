"""Converts checkpoints from a clone: dynvgd_jax/convert.py, which --help prints."""

import sys

from dynvgd_jax.core.begin import main_of

main = main_of("dynvgd_jax.convert", "convert_torch_ckpt.py")

if __name__ == "__main__":
    sys.exit(main(sys.argv))
