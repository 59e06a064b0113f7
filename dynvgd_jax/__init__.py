"""Dynamic Value-Guided Denoising of frozen diffusion policies, in JAX.

`load_policy` and `load_agent` are imported on first use: this package itself loads
neither JAX nor a simulator.
"""

import importlib

_EXPORTS = {
    "load_policy": "dynvgd_jax.diffusion.policy_files",
    "load_agent": "dynvgd_jax.agent",
}
__all__ = list(_EXPORTS)
__version__ = "0.1.0"


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)
