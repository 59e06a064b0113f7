"""Imports JAX and opens its devices: what is wrong there is one line, not fifty."""

import os
from collections.abc import Callable
from pathlib import Path

from dynvgd_jax.core.command import run_command
from dynvgd_jax.core.errors import UserError
from dynvgd_jax.core.output import note

# JAX's defaults on which the program or its numbers rest. JAX reads all of these from
# the environment, where another program may have left them.
_NEEDED = {
    "jax_enable_x64": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_disable_jit": False,
    "jax_transfer_guard": None,
}
_CHOOSE_DEVICES = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME", "JAX_DEFAULT_DEVICE")
_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


def import_jax() -> None:
    """Imports JAX.

    Raises:
      UserError: a variable of the environment makes no sense to JAX, or would change
        what the program computes.
    """
    try:
        import jax
    except ValueError as error:
        if not any(name.startswith("JAX_") for name in os.environ):
            raise
        raise UserError(f"the environment's JAX_* variables: {error}") from error
    for name, needed in _NEEDED.items():
        found = getattr(jax.config, name, needed)
        found = getattr(found, "value", found)  # of an enum
        if found != needed:
            raise UserError(
                f"{name.upper()}: found {found}, expected JAX's default, {needed}, "
                f"on which the program and its numbers rest; unset this variable of "
                f"the environment: unset {name.upper()}"
            )


def open_devices() -> None:
    """Opens JAX's devices; says so in one line where a GPU is there and not used.

    Raises:
      UserError: the environment asks for devices that JAX does not find.
    """
    import_jax()
    import jax

    asked = {name: os.environ[name] for name in _CHOOSE_DEVICES if name in os.environ}
    try:
        platform = jax.devices()[0].platform
        jax.numpy.zeros(()).block_until_ready()
    except (RuntimeError, AssertionError, ValueError) as error:
        if not asked:
            raise
        settings = " ".join(f"{name}={value}" for name, value in asked.items())
        reason = (str(error) or "no such device").splitlines()[0]
        raise UserError(
            f"{settings}: JAX finds no such device here ({reason}); unset the variable "
            "for what there is, or install JAX's part for it, for an NVIDIA GPU: "
            f"{cuda_command()}"
        ) from error
    if platform == "cpu" and not asked and _NVIDIA_DRIVER.exists():
        note(
            "an NVIDIA GPU is here, but JAX computes on the CPU; to use it: "
            f"{cuda_command()}; JAX_PLATFORMS=cpu silences this"
        )


def run_on_devices(program: str, main: Callable[[], object]) -> int:
    """Runs a small program on JAX's devices and returns its exit code.

    What a user can act on is one line: see `core.command.run_command`.

    Args:
      program: its name.
      main: what it does; its result is not looked at.
    """

    def body() -> None:
        open_devices()
        main()

    return run_command(program, body)


def cuda_command() -> str:
    """The command that installs the CUDA part of the JAX that is here."""
    import jax

    return f'pip install "jax[cuda12]=={jax.__version__}"'
