"""Fields of a configuration by dotted name: what they may be, and finding them.

What a field may be, its rule, stands beside the code that reads it, in tables `FIELDS`
of dotted name -> rule. Every message names the field as one writes it on the command
line, what was found and what was expected.
"""

import difflib
import numbers
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from dynvgd_jax.core.errors import UserError

SEED_END = 2**31 - 1
COUNT_END = 2**31 - 1  # counters on the device are int32

# (dotted name, value): raises UserError where the value is none that the field may have
Rule = Callable[[str, Any], None]


def number(least: float, greatest: float) -> Rule:
    """Returns the rule of a number from `least` to `greatest`, both allowed."""
    return lambda field, value: check_range(field, value, least, greatest)


def count(least: int = 0, greatest: int = COUNT_END) -> Rule:
    """Returns the rule of a whole number that a device counts."""
    return number(least, greatest)


def one_of(names: Iterable[str]) -> Rule:
    """Returns the rule of a name among `names`."""
    names = tuple(names)
    return lambda field, value: check_choice(field, value, names)


def each(rule: Rule, least: int = 0) -> Rule:
    """Returns the rule of a tuple with at least `least` entries that each keep one."""

    def check(field: str, values: Any) -> None:
        if len(values) < least:
            raise UserError(
                f"config.{field}: found none, expected at least {least} of them"
            )
        for value in values:
            rule(field, value)

    return check


def anything(field: str, value: Any) -> None:
    """The rule of a field whose type says all."""


def check_fields(config: ConfigDict, rules: Mapping[str, Rule]) -> None:
    """Raises UserError where a field of `rules` is missing or has no allowed value."""
    for field, rule in rules.items():
        rule(field, get_field(config, field))


def check_choice(field: str, value: Any, names: Iterable[str]) -> None:
    """Raises UserError unless `value` is one of `names`; says which one is nearest."""
    names = tuple(names)
    if value not in names:
        raise UserError(
            f"config.{field}: found {value!r}, expected one of {', '.join(names)}"
            f"{did_you_mean(str(value), names)}"
        )


def check_range(field: str, value: float, least: float, greatest: float) -> None:
    """Raises UserError unless `value` is a number from `least` to `greatest`."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not least <= value <= greatest:
        raise UserError(
            f"config.{field}: found {value!r}, expected a number from {least} to "
            f"{greatest}"
        )


def get_field(config: ConfigDict, field: str) -> Any:
    """Returns the value at a dotted name such as `critic.width`.

    Raises:
      UserError: the configuration, read from a file perhaps, has no such field.
    """
    for name in field.split("."):
        if not isinstance(config, ConfigDict) or name not in config:
            raise UserError(f"config.{field}: missing, expected a value")
        config = config[name]
    return config


def field_names(config: ConfigDict) -> list[str]:
    """The dotted names of all fields, groups left out."""
    names = []
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            names += [f"{key}.{name}" for name in field_names(value)]
        else:
            names.append(key)
    return names


def check_field_name(config: ConfigDict, field: str) -> None:
    """Raises UserError unless the dotted name is a field of `config`."""
    names = field_names(config)
    if field in names:
        return
    inside = [name for name in names if name.startswith(field + ".")]
    if inside:
        raise UserError(
            f"config.{field}: is a group of fields, expected one of them: "
            + ", ".join(f"config.{name}" for name in inside)
        )
    raise UserError(
        f"config.{field}: no such field; the nearest is config.{_nearest(field, names)}"
    )


def flat(config: ConfigDict) -> dict[str, Any]:
    """Returns all fields by dotted name, groups left out."""
    return {name: get_field(config, name) for name in field_names(config)}


def nested(values: Mapping[str, Any]) -> ConfigDict:
    """Returns fields by dotted name as groups of fields."""
    config = ConfigDict()
    for field, value in values.items():
        *groups, leaf = field.split(".")
        holder = config
        for name in groups:
            if name not in holder:
                holder[name] = ConfigDict()
            holder = holder[name]
        holder[leaf] = value
    return config


def set_fields(config: ConfigDict, values: dict[str, Any]) -> ConfigDict:
    """Returns `config` with fields replaced by dotted name, as on the command line.

    Raises:
      UserError: a name is unknown, or a value has the wrong type.
    """
    for field, value in values.items():
        check_field_name(config, field)
        *groups, leaf = field.split(".")
        holder = get_field(config, ".".join(groups)) if groups else config
        try:
            holder[leaf] = value
        except TypeError as error:
            expected = type(holder[leaf]).__name__
            raise UserError(
                f"config.{field}: found {value!r}, expected {expected}"
            ) from error
    return config


def apply_preset(
    config: ConfigDict, preset: str, presets: dict[str, Callable[[ConfigDict], None]]
) -> ConfigDict:
    """Returns `config` after the preset named behind the colon of `--config`.

    Raises:
      UserError: no preset has that name.
    """
    if preset:
        if preset not in presets:
            raise UserError(
                f"unknown preset {preset!r}, expected one of {', '.join(presets)}"
                f"{did_you_mean(preset, presets)}"
            )
        presets[preset](config)
    return config


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Returns `; did you mean 'name'?` or nothing where no name is near."""
    near = difflib.get_close_matches(word, list(names), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def _nearest(field: str, names: list[str]) -> str:
    """The most similar name: as a whole, behind the last dot, or by initials (lr)."""

    def similarity(name: str) -> float:
        if field == "".join(part[:1] for part in re.split(r"[._]", name)):
            return 1.0
        whole = difflib.SequenceMatcher(None, field, name).ratio()
        last = field.rpartition(".")[2], name.rpartition(".")[2]
        return max(whole, 0.99 * difflib.SequenceMatcher(None, *last).ratio())

    return max(names, key=similarity)
