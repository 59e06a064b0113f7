"""The command line's --config and --config.* arguments, before absl reads them."""

import itertools
import re
from collections.abc import Callable

from absl import flags
from ml_collections import ConfigDict, config_flags

from dynvgd_jax.core import fields
from dynvgd_jax.core.command_line import expand, spell_int, spell_tuple
from dynvgd_jax.core.config_file import config_files, load_config
from dynvgd_jax.core.errors import UserError

_OVERRIDE = re.compile(r"(--?(?:no)?config\.([^=]*))(?:=(.*))?", re.DOTALL)


def parse(
    argv: list[str], define: Callable[[flags.FlagValues], None]
) -> tuple[str, flags.FlagValues]:
    """Returns --config as it was typed, and the values of all flags.

    Args:
      argv: with a --config.
      define: defines the command's other flags.

    Returns:
      the text of --config, and values whose `config` is the configuration, locked, its
      overrides applied and `~` replaced.

    Raises:
      UserError: whatever is wrong with the arguments or the configuration file.
    """
    argv = with_flag_files(argv)
    config_flag, argv = split_config(argv)
    return config_flag, parse_over(load_config(config_flag), argv, define)


def parse_over(
    original: ConfigDict, argv: list[str], define: Callable[[flags.FlagValues], None]
) -> flags.FlagValues:
    """Returns values whose `config` is `original`, locked, with argv's --config.*.

    Arguments and errors as `parse`'s; `argv` holds no --config.
    """
    argv = spell_overrides(argv, original)
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict(
            "config", original, flag_values=values, sys_argv=argv
        )
        define(values)
        surplus = values(argv)[1:]
    except flags.Error as error:
        raise explain(error, original) from error
    if surplus:
        raise unexpected(surplus[0], argv, original)
    expand_paths(values.config)
    return values


def typed_fields(argv: list[str]) -> tuple[str, ...]:
    """Returns the dotted names of argv's --config.*, each once."""
    found = (_OVERRIDE.fullmatch(argument) for argument in with_flag_files(argv)[1:])
    return tuple(dict.fromkeys(match[2] for match in found if match))


def with_flag_files(argv: list[str]) -> list[str]:
    """Returns `argv` with the lines of its --flagfile=FILE in their place."""
    try:
        return flags.FlagValues().read_flags_from_files(argv, force_gnu=False)
    except flags.Error as error:
        raise UserError(str(error)) from error


def split_config(argv: list[str]) -> tuple[str, list[str]]:
    """Returns the last --config, and `argv` without any."""
    found, others = None, argv[:1]
    rest = iter(argv[1:])
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name in ("--config", "-config"):
            found = value if equals else next(rest, None)
        else:
            others.append(argument)
    if not found:
        raise UserError(
            f"no configuration given; expected --config=FILE, one of "
            f"{', '.join(config_files())}"
        )
    return found, others


def spell_overrides(argv: list[str], config: ConfigDict) -> list[str]:
    """Returns `argv` with numbers and tuples spelled as config_flags reads them.

    Raises:
      UserError: a field is unknown, or a tuple's values are of another type.
    """
    spelled = list(argv)
    for index, argument in enumerate(argv):
        match = _OVERRIDE.fullmatch(argument)
        if match is None or index == 0:
            continue
        flag, field, text = match.groups()
        fields.check_field_name(config, field)
        default = fields.get_field(config, field)
        place = index
        if text is None and not isinstance(default, bool):
            place, flag = index + 1, None  # `--config.seed 7`
            text = argv[place] if place < len(argv) else None
        if text is not None:
            text = _spell(field, default, text)
            spelled[place] = text if flag is None else f"{flag}={text}"
    return spelled


def _spell(field: str, default: object, text: str) -> str:
    if isinstance(default, tuple):
        try:
            return spell_tuple(text, default)
        except ValueError as error:
            raise UserError(f"config.{field}: found {text!r}, {error}") from error
    is_int = isinstance(default, int) and not isinstance(default, bool)
    return spell_int(text) if is_int else text


def unexpected(argument: str, argv: list[str], config: ConfigDict) -> UserError:
    """The answer to an argument that belongs to no flag."""
    before = itertools.takewhile(lambda other: other != argument, argv)
    match = _OVERRIDE.fullmatch(([""] + [a for a in before if a.startswith("-")])[-1])
    hint = ""
    if match and isinstance(fields.get_field(config, match[2]), tuple):
        hint = f"; several values are written --config.{match[2]}=a,b"
    return UserError(f"found {argument!r}, expected only --flag=value arguments{hint}")


def expand_paths(config: ConfigDict) -> None:
    """Replaces `~` in every field that is text, from whichever file or flag."""
    for field in fields.field_names(config):
        value = fields.get_field(config, field)
        if isinstance(value, str) and value.startswith("~"):
            config.update_from_flattened_dict({field: str(expand(value))})


def explain(error: flags.Error, config: ConfigDict) -> UserError:
    """Turns absl's complaint about a value into found and expected type."""
    match = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error), re.DOTALL)
    if match and match[1] in fields.field_names(config):
        kind = type(fields.get_field(config, match[1]))
        example = {int: ", such as 64000 or 1e6", bool: ", True or False"}.get(kind, "")
        return UserError(
            f"config.{match[1]}: found {match[2]!r}, expected {kind.__name__}{example}"
        )
    return UserError(str(error))
