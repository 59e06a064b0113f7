"""PyTorch checkpoints of DPPO to policy folders and back: the only room with torch.

Importing it without torch raises a UserError that says what to install.
"""

from dynvgd_jax.core.errors import UserError

try:
    import torch  # noqa: F401
except ImportError as error:
    raise UserError(
        "PyTorch is not installed; it is needed for conversion only: "
        "pip install -r requirements-torch.txt"
    ) from error
