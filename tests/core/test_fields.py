"""Fields by dotted name: their rules, finding them, and what messages say."""

import pytest
from ml_collections import ConfigDict

from dynvgd_jax.core import fields
from dynvgd_jax.core.errors import UserError


def config():
    found = ConfigDict()
    found.gamma, found.names = 0.9, ("a",)
    found.learning_rate = 1e-3
    found.critic = ConfigDict({"width": 16, "depth": 2})
    return found.lock()


@pytest.mark.parametrize(
    ("rule", "good", "bad", "message"),
    [
        (
            fields.number(0.0, 1.0),
            (0, 1, 0.5),
            (-1e-9, 1.1, float("nan"), float("inf"), "a", None, (1,)),
            "expected a number from 0.0 to 1.0",
        ),
        (
            fields.count(1),
            (1, 2**31 - 1),
            (0, 2**31),
            "expected a number from 1 to 2147483647",
        ),
        (
            fields.one_of(["off", "on"]),
            ("off", "on"),
            ("of", "", 3, None),
            "expected one of off, on",
        ),
        (
            fields.each(fields.number(1, 9), least=1),
            ((1,), (1, 9), [3]),
            ((0,), (1, 10), ("a",)),
            "expected a number from 1 to 9",
        ),
        (fields.each(fields.number(1, 9), least=2), ((1, 2),), ((), (1,)), "least 2"),
        (fields.each(fields.one_of("ab")), ((), ("a", "b")), (("c",),), "one of a, b"),
        (fields.anything, (1, "x", None, ()), (), ""),
    ],
)
def test_rules(rule, good, bad, message):
    for value in good:
        rule("x.y", value)
    for value in bad:
        with pytest.raises(UserError, match=message) as caught:
            rule("x.y", value)
        assert str(caught.value).startswith("config.x.y: found ")


def test_the_first_field_against_its_rule_is_named():
    rules = {"gamma": fields.number(0, 1), "critic.width": fields.count(17)}
    with pytest.raises(UserError, match=r"config\.critic\.width: found 16"):
        fields.check_fields(config(), rules)
    with pytest.raises(UserError, match=r"config\.critic\.size: missing"):
        fields.check_fields(config(), {"critic.size": fields.anything})
    with pytest.raises(UserError, match=r"config\.gamma\.x: missing"):
        fields.check_fields(config(), {"gamma.x": fields.anything})


def test_names_and_values_by_dotted_name():
    names = fields.field_names(config())
    expected = ["gamma", "names", "learning_rate", "critic.width", "critic.depth"]
    assert sorted(names) == sorted(expected)
    assert fields.get_field(config(), "critic.depth") == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gama", "nearest is config.gamma"),
        ("lr", "nearest is config.learning_rate"),  # its initials
        ("width", "nearest is config.critic.width"),  # behind the last dot
        ("critics.width", "nearest is config.critic.width"),
        ("critic", "is a group of fields, .*: config.critic.depth, config.critic.wi"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(name, message):
    with pytest.raises(UserError, match=message):
        fields.check_field_name(config(), name)
    with pytest.raises(UserError, match=message):
        fields.set_fields(config(), {name: 1})


def test_values_are_set_in_place_and_keep_their_type():
    found = config()
    assert fields.set_fields(found, {"critic.width": 32, "gamma": 0.5}) is found
    assert (found.critic.width, found.gamma) == (32, 0.5)
    with pytest.raises(UserError, match=r"critic\.width: found 'x', expected int"):
        fields.set_fields(found, {"critic.width": "x"})


def test_presets_by_name():
    def wide(config):
        config.critic.width = 99

    assert fields.apply_preset(config(), "", {"wide": wide}).critic.width == 16
    assert fields.apply_preset(config(), "wide", {"wide": wide}).critic.width == 99
    with pytest.raises(UserError, match=r"unknown preset 'wild'.*did you mean 'wide'"):
        fields.apply_preset(config(), "wild", {"wide": wide})
