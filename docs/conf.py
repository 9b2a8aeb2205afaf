"""Configuration of the Sphinx site: ``make docs``. The generated parts of the pages come from ``_ext/generate.py``."""

import re
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).parent

project = "ViT Atlas"
html_title = project
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
extensions = ["myst_parser"]
exclude_patterns = ["_build"]
smartquotes = False  # command options begin with two hyphens
nitpicky = True
myst_heading_anchors = 4

_LINK_TO_FILE = re.compile(r"\]\((?P<path>(?:\.\./)+[^)#]+\.md)(?:#[^)]*)?\)")


def adapt(app: Sphinx, page: str, source: list[str]) -> None:
    """Adapt a page for Sphinx: list the decisions, and mark links to Markdown files outside ``docs`` as plain files."""
    if page == "decisions/README":
        source[0] += "\n```{toctree}\n:hidden:\n:glob:\n\n0*\n```\n"
    source[0] = _LINK_TO_FILE.sub(lambda link: _as_file(link, HERE / page), source[0])


def _as_file(link: re.Match[str], page: Path) -> str:
    inside = (page.parent / link["path"]).resolve().is_relative_to(HERE)
    return link[0] if inside else f"](<path:{link['path']}>)"


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect ``adapt``."""
    app.connect("source-read", adapt)
    return {"parallel_read_safe": True}
