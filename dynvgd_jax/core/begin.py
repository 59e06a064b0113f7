"""Begins a command where packages may be missing; this module needs none."""

import importlib
import sys
from collections.abc import Callable

from dynvgd_jax.core.errors import missing_package


def main_of(module: str, program: str) -> Callable[[list[str]], int]:
    """Returns `main` of a module, which takes `sys.argv` and returns the exit code.

    Where a package that it imports is missing, such as outside the virtual environment,
    the process ends with one line on stderr and exit code 2.

    Args:
      module: of this package.
      program: its name in that line.
    """
    try:
        return importlib.import_module(module).main
    except ModuleNotFoundError as error:
        print(f"{program}: {missing_package(error)}", file=sys.stderr)
        sys.exit(2)
