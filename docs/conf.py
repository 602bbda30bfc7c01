"""Configuration of the documentation: `make docs`, the pages in docs/_build."""

import sys
from pathlib import Path

import qp_control

sys.path.insert(0, str(Path(__file__).parent))

project = "qp-control"
author = "The qp-control developers"
copyright = f"2026, {author}"
version = release = qp_control.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    # Ours, beside this file.
    "docstrings",
    "gallery",
    "mathml",
    "results",
]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
highlight_language = "none"  # formulas; code says what it is

autodoc_typehints = "none"
autodoc_member_order = "bysource"
autoclass_content = "class"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

default_role = "code"  # of single backticks in docstrings

html_math_renderer = "mathml"
html_theme = "furo"
html_title = "qp-control"
html_static_path = ["static"]
html_css_files = ["qp_control.css"]
