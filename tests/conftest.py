"""Settings of every test: strict shapes, exact CPU matmuls, quiet libraries."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MUJOCO_GL", "disabled")

import jax

# Stops silent (N, B) - (B,) broadcasts and reduced-precision products.
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")
