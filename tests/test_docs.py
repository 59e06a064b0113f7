"""What README and docs name exists: files, links, headings, menu; the site is built."""

import itertools
import re
import subprocess
import sys
import unicodedata
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt

from tests.support.command import ROOT

PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
LINKING = [*PAGES, *ROOT.glob("examples/**/*.md"), ROOT / "CHANGELOG.md"]
# Where a path in the text may begin.
PLACES = (ROOT, ROOT / "dynvgd_jax", ROOT / "tests", ROOT / "configs", ROOT / "docs")


def place(page):
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_tests_that_a_page_names_exist(page):
    text = page.read_text()
    named = set(re.findall(r"`([\w./-]+\.(?:py|md|txt|toml))(?:::(\w+))?`", text))
    named |= {(path, "") for path in re.findall(r"(?:=|^|\s)(configs/\w+\.py)", text)}
    missing = []
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


def links(text):
    """The targets of links and pictures of a page in Markdown."""
    return [
        child.attrGet("href") or child.attrGet("src")
        for token in MarkdownIt().enable("table").parse(text)
        for child in token.children or ()
        if child.type in ("link_open", "image")
    ]


def anchors(text):
    """What git hosts name the headings of a page."""
    found = []
    tokens = MarkdownIt().parse(text)
    for opening, title in itertools.pairwise(tokens):
        if opening.type == "heading_open":
            words = "".join(child.content for child in title.children).lower()
            kept = (
                c for c in words if c in " -_" or unicodedata.category(c)[0] in "LNM"
            )
            slug = "".join(kept).replace(" ", "-")
            again = sum(slug == re.sub(r"-\d+$", "", other) for other in found)
            found.append(f"{slug}-{again}" if again else slug)
    return found


def broken(page):
    """The links of the file `page` that lead nowhere; the network is left alone."""
    found = []
    for link in links(page.read_text()):
        if re.match(r"\w+:", link):
            assert link.startswith(("https:", "mailto:")), link
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path) if path else page
        if not target.exists() or (
            anchor and anchor not in anchors(target.read_text())
        ):
            found.append(link)
    return found


def test_links_and_headings_are_read_as_git_hosts_do(tmp_path):
    page = tmp_path / "a.md"
    page.write_text(
        "# One, *two* & `three_four`\n\n## Same\n\n## Same\n\n"
        "[here](#one-two--three_four) ![no](b.png) [x](#same-1) [y](#same-2)\n\n"
        "| [in a table](c.md) |\n|---|\n\n```\n[no link](d.md)\n```\n"
        "[far](https://example.org)\n"
    )
    assert anchors(page.read_text()) == ["one-two--three_four", "same", "same-1"]
    assert broken(page) == ["b.png", "#same-2", "c.md"]


@pytest.mark.parametrize("page", LINKING, ids=place)
def test_every_link_leads_somewhere(page):
    assert broken(page) == []


def test_the_menu_has_every_page_once():
    menu = re.findall(
        r"^- \[[^]]+\]\(([\w/]+\.md)\): \S",
        (ROOT / "docs/index.md").read_text(),
        re.MULTILINE,
    )
    docs = ROOT / "docs"
    pages = {page.relative_to(docs).as_posix() for page in docs.rglob("*.md")}
    pages.remove("index.md")
    assert sorted(menu) == sorted(pages), "docs/index.md is the site's menu"


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    site = tmp_path / "site"
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "-q", ROOT / "docs", site],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    assert (built.returncode, built.stderr) == (0, "")
    assert (site / "searchindex.js").stat().st_size > 10_000
    front = (site / "index.html").read_text()
    first, second = front.index("first_hour.html"), front.index("install.html")
    assert first < second
    text = re.sub("<[^>]+>", "", (site / "documentation.html").read_text())
    assert "python -m docs.run_commands ../clone" in text
    assert (site / "_images" / "method.svg").is_file()
