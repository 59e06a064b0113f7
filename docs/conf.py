"""The documentation as a site, by Sphinx: `python -m sphinx -W docs site`.

The pages are plain Markdown, which a git host shows as well. Their order is that of the
lists in index.md: a heading there is a group of the site's menu, a list item a page.
"""

import re
from datetime import date

from dynvgd_jax import __version__

project = "dynvgd_jax"
author = "the authors of dynvgd_jax"
project_copyright = f"{date.today().year}, {author}"
version = release = __version__

extensions = ["myst_parser"]
exclude_patterns = ["__pycache__"]
html_theme = "furo"
html_title = f"{project} {version}"
html_copy_source = False
html_show_sphinx = False
html_use_index = False
highlight_language = "none"  # indented blocks are formulas and folders
myst_heading_anchors = 3  # `page.md#a-heading`, as git hosts name them
suppress_warnings = ["myst.header"]  # a page may begin with any heading


def add_menu(app, page, source):
    """Adds to index.md, unseen, the menu that its own lists say."""
    if page != "index":
        return
    for group in re.split(r"^## ", source[0], flags=re.MULTILINE)[1:]:
        title, _, rest = group.partition("\n")
        links = re.findall(r"^- \[([^]]+)\]\(([\w/]+)\.md\)", rest, re.MULTILINE)
        entries = "".join(f"{name} <{target}>\n" for name, target in links)
        menu = f":hidden:\n:caption: {title}\n\n{entries}"
        source[0] += f"\n```{{toctree}}\n{menu}```\n"


def setup(app):
    """Tells Sphinx of `add_menu`."""
    app.connect("source-read", add_menu)
