"""Sphinx's configuration: `make docs` builds the pages of this folder into build/docs.

Nothing in the built pages is loaded from elsewhere: furo brings its own styles, equations are MathML
(`_ext/mathml.py`), and the search index is one local file.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import figures

import rmt

project = "rmt-vision"
author = "the authors of rmt-vision"
copyright = "the authors of rmt-vision, Apache-2.0"
version = release = rmt.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "mathml",
    "checkout_links",
    "docstrings",
    "public_names",
    "generated_reference",
    "http_reference",
    "figures",
]
exclude_patterns = ["_ext"]
nitpicky = False  # annotations name types of torch, whose pages are not here
show_warning_types = True
smartquotes = False  # they turn --option into an en dash, and quotes of commands into ones that no shell reads

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist", "substitution"]
myst_substitutions = figures.substitutions()
myst_heading_anchors = 3
# Indented blocks are command lines, which no lexer of Sphinx colours usefully.
highlight_language = "none"
default_role = "literal"
html_math_renderer = "mathml"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_use_rtype = False
napoleon_use_ivar = True  # the attributes of a class are listed once
python_maximum_signature_line_length = 90
viewcode_line_numbers = True
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "furo"
html_title = "rmt-vision"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_copy_source = False
html_show_sphinx = False
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
