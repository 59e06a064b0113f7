"""Writes docs/configuration.md, every field of a training run, from configs/base.py.

python -m docs.generate_configuration
"""

import re
from pathlib import Path

from configs import base, can_ddim8, square_ddim8
from dynvgd_jax.core.fields import field_names, get_field

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "configuration.md"
HEAD = """# Configuration reference

Every field of a training run: on the command line `--config.FIELD=VALUE`, a tuple as
`--config.explore.noises=randn,tanh_randn`. "Published" is Dynamic VGD's PyTorch code.
The columns are those of `configs/can_ddim8.py`, its preset `:quick` and what
`configs/square_ddim8.py` has in place of Can's value; `=` is the value before it.

`python -m docs.generate_configuration` writes this page from `configs/base.py`; a test
holds it current.
"""
_COLUMNS = (
    "| field | published | `:quick` | Square | meaning |\n|---|---|---|---|---|\n"
)
_FIELD = re.compile(r"    config\.([\w.]+) = ")


def meanings() -> dict[str, str]:
    """Returns what the comments above each field of configs/base.py say, by name.

    Raises:
      ValueError: a field has none.
    """
    found, comment, field = {}, [], None
    for line in Path(base.__file__).read_text().splitlines():
        if line.startswith("    return config"):
            return found
        text = line.strip()
        if text.startswith("# "):
            comment.append(text.removeprefix("# "))
            continue
        match = _FIELD.match(line)
        if match and "ConfigDict()" in line:
            continue
        if match:
            # fields in a row share the comment above the first
            said = " ".join(comment) or f"As `{field}`." * (field is not None)
            if not said:
                raise ValueError(f"config.{match[1]} has no comment")
            field, comment = match[1], []
            found[field] = said
    raise ValueError("found no end of the fields")


def page() -> str:
    """Returns the whole page."""
    published = can_ddim8.get_config()
    quick, square = can_ddim8.get_config("quick"), square_ddim8.get_config()
    said = meanings()
    groups: dict[str, list[str]] = {}
    if {*said} != {*field_names(published)}:
        raise ValueError("the fields that were found are not those of a run")
    for name in said:
        values = [get_field(c, name) for c in (published, quick, square)]
        cells = [_shown(values[0])] + [
            "=" if value == values[0] else _shown(value) for value in values[1:]
        ]
        meaning = said[name].replace("|", r"\|")
        row = f"| `{name}` | {' | '.join(cells)} | {meaning} |\n"
        groups.setdefault(name.rpartition(".")[0], []).append(row)
    parts = [HEAD]
    for group, rows in groups.items():
        title = f"`{group}`" if group else "The run"
        parts.append(f"\n## {title}\n\n{_COLUMNS}{''.join(rows)}")
    return "".join(parts)


def _shown(value) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"`{value!r}`" if isinstance(value, str | tuple) else str(value)


if __name__ == "__main__":
    PAGE.write_text(page())
