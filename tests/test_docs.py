"""What README and docs name exists."""

import re

import pytest

from tests.support.command import ROOT

PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
# Where a path in the text may begin.
PLACES = (ROOT, ROOT / "dynvgd_jax", ROOT / "tests", ROOT / "configs", ROOT / "docs")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_tests_that_a_page_names_exist(page):
    text = page.read_text()
    named = set(re.findall(r"`([\w./-]+\.(?:py|md|txt|toml))(?:::(\w+))?`", text))
    named |= {(path, "") for path in re.findall(r"(?:=|^|\s)(configs/\w+\.py)", text)}
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    missing = [link for link in links if not (page.parent / link).exists()]
    for path, test in sorted(named):
        found = [place / path for place in PLACES if (place / path).is_file()]
        inside = [*ROOT.glob(f"dynvgd_jax/**/{path}"), *ROOT.glob(f"tests/**/{path}")]
        found += inside if "/" not in path else []
        if not found and not _example(path):
            missing.append(path)
        elif test and not any(f"def {test}" in file.read_text() for file in found):
            missing.append(f"{path}::{test}")
    assert missing == []


def test_the_configuration_reference_is_current():
    from docs import generate_configuration

    text = generate_configuration.PAGE.read_text()
    assert text == generate_configuration.page(), (
        "run python -m docs.generate_configuration"
    )
    assert all(len(said) > 12 for said in generate_configuration.meanings().values())


def _example(path: str) -> bool:
    """Names that stand for files of a user's, or of another package."""
    return "NAME" in path or "TASK" in path or path == "macros_private.py"


def test_citation_and_changelog_name_this_version():
    from dynvgd_jax import __version__

    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
