"""The site: python -m pip install -e '.[docs]' && sphinx-build -W -n docs build/site."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extension"))

import pyoptk

project = "pyoptk"
author = "the pyoptk developers"
copyright = f"2026, {author}"
version = release = pyoptk.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "links",
    "programs",
    "reference",
]
exclude_patterns = ["extension", "figures", "programs", "conda"]
nitpicky = True

# Markdown: headings have GitHub's anchors; tables of performance are wide.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "deflist"]
suppress_warnings = ["myst.strikethrough"]

# Docstrings.  A name in them is a link where there is such a name (extension/reference.py).
default_role = "name"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_mock_imports = ["mpi4py"]
numpydoc_show_class_members = False

html_theme = "furo"
html_title = f"pyoptk {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
pygments_style, pygments_dark_style = "friendly", "monokai"
