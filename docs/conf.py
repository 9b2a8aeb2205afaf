"""How the documentation is built: ``make docs``. The reference is made from the code by ``_ext/reference.py``."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

project = "ViT Atlas"
html_title = project
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "reference"]
exclude_patterns = ["_build"]
smartquotes = False  # two dashes begin an option

nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]  # types in signatures are often of others, and nothing is fetched
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_class_signature = "separated"
napoleon_custom_sections = [("Options", "params_style"), ("Presets", "params_style"), ("Extra outputs", "params_style")]
