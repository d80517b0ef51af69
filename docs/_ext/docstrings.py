"""Docstrings as plain text: of reStructuredText's marks only backticks count, for code.

Formulas such as |Δ|·ln γ, and names such as `*.pth`, would otherwise be read as substitutions and emphasis.
"""

import re

from sphinx.application import Sphinx

CODE = re.compile(r"(`+[^`]+`+)")


def escape(line: str) -> str:
    """The line with reStructuredText's marks escaped outside of code, and letters after code set apart from it."""
    parts = CODE.split(line)
    parts[::2] = [re.sub(r"([|*\\])", r"\\\1", re.sub(r"(\w)_\b", r"\1\\_", part)) for part in parts[::2]]
    # A mark that ends code needs a space or punctuation after it: `Detection`s becomes `Detection`\ s.
    for i in range(2, len(parts), 2):
        if re.match(r"[\w(]", parts[i]):
            parts[i] = "\\ " + parts[i]
    return "".join(parts)


def process(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    lines[:] = [escape(line) for line in lines]


def setup(app: Sphinx) -> dict:
    app.connect("autodoc-process-docstring", process, priority=100)  # before napoleon
    return {"parallel_read_safe": True, "parallel_write_safe": True}
