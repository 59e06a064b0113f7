"""A folder or file that appears complete or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from dynvgd_jax.errors import UserError


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Gives a hidden neighbour of `path` to fill; renames it when the block ends.

    An error inside the block deletes what was written.

    Raises:
      UserError: `path` exists already, or its place cannot be written.
    """
    path = Path(path).absolute()
    refuse_existing(path)
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot create {path}: {error.strerror}") from error
    try:
        yield partial
        os.rename(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def new_file(path: str | Path) -> Iterator[BinaryIO]:
    """Gives a hidden neighbour of `path` to write; renames it when the block ends.

    An error inside the block deletes what was written.

    Raises:
      UserError: `path` exists already, or cannot be written.
    """
    path = Path(path).absolute()
    refuse_existing(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            yield file
        os.rename(partial, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def refuse_existing(path: Path) -> None:
    """Raises UserError where there is something at `path`."""
    if path.exists():
        raise UserError(f"{path} exists already; give one that does not")
