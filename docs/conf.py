"""Settings of the documentation site; `make docs` builds it."""

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "spade-ext"
author = "the spade-ext authors"
(release,) = re.findall(r'^version = "(.+)"', (HERE.parent / "pyproject.toml").read_text(), re.M)

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_parser",
    "c_header",
    "derived_tables",
    "plain_docstrings",
    "repository_pages",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_theme_options = {
    "light_css_variables": {"code-font-size": "var(--font-size--small--3)"}
}  # headers are 100 columns wide
html_title = f"spade-ext {release}"

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = (
    True  # attributes in the text of their class; those that are properties stand on their own too
)
napoleon_custom_sections = ["Source", "Reference"]
python_use_unqualified_type_names = True
