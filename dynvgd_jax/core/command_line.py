"""What people type, as values: paths, whole numbers, several values in one."""

import ast
import os
from pathlib import Path
from typing import Any

from dynvgd_jax.core.errors import UserError


def expand(path: str | Path) -> Path:
    """Returns `path` with a leading `~` or `~name` replaced by that home folder.

    Shells leave it alone behind `--flag=`, and so do configuration files.

    Raises:
      UserError: nobody has that name.
    """
    # pathlib would take ./~, a folder of that name, for the home folder.
    expanded = os.path.expanduser(path)
    if str(expanded).startswith("~"):
        raise UserError(
            f"{str(path)!r}: no home folder of that name; write the folder out"
        )
    return Path(expanded)


def spell_int(text: str) -> str:
    """Returns `1e6` and `64000.0` as `1000000` and `64000`, other text as it is."""
    try:
        value = float(text)
    except ValueError:
        return text
    exact = value.is_integer() and abs(value) < 2**53
    return str(int(value)) if exact else text


def whole_number(text: str) -> int:
    """Returns `64000`, `1e6` and the like as a number; ValueError for all else."""
    return int(spell_int(text))


def spell_tuple(text: str, example: tuple) -> str:
    """Returns several values, however they are written, as a tuple in Python.

    Understood are `a,b`, `a b`, `(a, b)`, `[a, b]` and Python's own spelling; nothing
    is the empty tuple.

    Args:
      text: as it was typed.
      example: a value of the same field; where it is not empty, all values must have
        the type of its first.

    Raises:
      ValueError: they have another type; says which was expected.
    """
    values = _values(text)
    if not example:
        return repr(values)
    kind = type(example[0])
    if kind is int:
        values = tuple(_whole(value) for value in values)
    elif kind is float:
        values = tuple(float(v) if type(v) is int else v for v in values)
    if any(type(value) is not kind for value in values):
        plural = {int: "whole numbers", float: "numbers", str: "words"}
        example_text = ",".join(map(str, example if len(example) > 1 else example * 2))
        raise ValueError(f"expected {plural.get(kind, kind)}, such as {example_text}")
    return repr(values)


def _values(text: str) -> tuple:
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        inner = text.strip()
        if (inner[:1], inner[-1:]) in (("(", ")"), ("[", "]")):
            inner = inner[1:-1]
        return tuple(_literal(word) for word in inner.replace(",", " ").split())
    if isinstance(value, list | tuple):
        return tuple(value)
    return (value,)


def _literal(word: str) -> Any:
    """A number as such, other words as text, without quotes around them."""
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return word


def _whole(value: Any) -> Any:
    """A float that is a whole number, such as 1e6, as an int."""
    if type(value) is float and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value
