"""Errors that are answered with one line instead of a traceback."""

import importlib.util
import sys


class UserError(Exception):
    """A mistake in the input: one line with what was found, expected, and to do."""


class StuckError(Exception):
    """An environment's thread does not come back: one line that names it.

    The thread cannot be ended from outside, so the process must end by `os._exit`.
    """


def missing_package(error: ModuleNotFoundError) -> str:
    """Returns the line for a package that this environment lacks.

    Raises:
      ModuleNotFoundError: `error`, where the package is there or is this project's own:
        a bug, or a release of it without that module.
    """
    package = (error.name or "dynvgd_jax").partition(".")[0]
    if package == "configs" or importlib.util.find_spec(package) is not None:
        raise error
    return (
        f"no package {package} in this environment ({sys.prefix}): activate the one "
        "that has it, such as source .venv/bin/activate, or "
        "pip install -r requirements.txt"
    )
