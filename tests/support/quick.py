"""Compiles fast: LLVM's optimisation is not what small tests are about."""

import functools

import jax

quick_jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)
