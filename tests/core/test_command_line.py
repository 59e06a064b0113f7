"""Values as people type them."""

import os
import pwd
from pathlib import Path

import pytest

from dynvgd_jax.core.command_line import expand, spell_int, spell_tuple, whole_number
from dynvgd_jax.core.errors import UserError


def test_home_folders_are_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert expand("~/runs/a") == Path("/somewhere/runs/a")
    assert expand("~") == Path("/somewhere")
    me = pwd.getpwuid(os.getuid())
    assert expand(f"~{me.pw_name}/a") == Path(me.pw_dir) / "a"
    # what only looks alike
    assert expand("runs/~/a") == Path("runs/~/a") and expand("./~") == Path("./~")
    with pytest.raises(UserError, match="'~no_such_user/a': no home folder"):
        expand("~no_such_user/a")


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("1e6", "1000000"),
        ("2.5E3", "2500"),
        ("-1e2", "-100"),
        ("64000.0", "64000"),
        ("1_000", "1000"),
        ("7", "7"),
        # left for absl, which reads or refuses them
        *((text, text) for text in ("0x10", "1.5", "1e400", "nan", "inf", "", "abc")),
        ("9" * 40, "9" * 40),
        ("1e22", "1e22"),  # no float beyond 2**53 is one whole number alone
    ],
)
def test_whole_numbers(text, spelled):
    assert spell_int(text) == spelled
    if spelled.lstrip("-").isdigit():
        assert whole_number(text) == int(spelled)
    else:
        with pytest.raises(ValueError, match="invalid literal"):
            whole_number(text)


NOISES, HOLDS = ("tanh_randn", "randn"), (1,)


@pytest.mark.parametrize(
    ("text", "example", "value"),
    [
        ("randn,tanh_randn", NOISES, ("randn", "tanh_randn")),
        ("randn, tanh_randn", NOISES, ("randn", "tanh_randn")),
        ("randn tanh_randn", NOISES, ("randn", "tanh_randn")),
        ("(randn, 'tanh_randn',)", NOISES, ("randn", "tanh_randn")),
        ("[randn,tanh_randn]", (), ("randn", "tanh_randn")),
        ("['randn', 'tanh_randn']", NOISES, ("randn", "tanh_randn")),
        ("('randn',)", NOISES, ("randn",)),
        ("randn", NOISES, ("randn",)),
        ("", NOISES, ()),
        ("()", HOLDS, ()),
        ("1,8,1e2", HOLDS, (1, 8, 100)),
        ("(1, 8)", HOLDS, (1, 8)),
        ("8", (), (8,)),
        ("1,2", (0.5,), (1.0, 2.0)),
    ],
)
def test_several_values(text, example, value):
    assert spell_tuple(text, example) == repr(value)


@pytest.mark.parametrize(
    ("text", "example", "words"),
    [
        ("1.5", HOLDS, "whole numbers, such as 1,1"),
        ("1,x", HOLDS, "whole numbers"),
        ("True", HOLDS, "whole numbers"),
        ("(1, (2,))", HOLDS, "whole numbers"),
        ("1,2", NOISES, "words, such as tanh_randn,randn"),
        ("None", NOISES, "words"),
        ("(" * 5000, HOLDS, "whole numbers"),
        ("a", (0.5, 1.0), "numbers, such as 0.5,1.0"),
    ],
)
def test_values_of_another_type_are_refused(text, example, words):
    with pytest.raises(ValueError, match=words):
        spell_tuple(text, example)
