"""Links from a page to a file of the checkout that is no page, such as `../benchmarks/quickstart.json`.

The pages are also read in the checkout, where such a link opens the file. In the site the file is copied to
`_downloads/` and the link leads there, as by Sphinx's role `download`; a file that is missing is a warning.
"""

import re

from sphinx.application import Sphinx

LINK = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+(?!docs/)[\w./-]+\.(?!md\b)\w+)\)")
INCLUDED = re.compile(r"\]\((?:\.\./)+(CONTRIBUTING|CHANGELOG)\.md(#[\w-]+)?\)")  # files that a page includes


def use_downloads(app: Sphinx, page: str, source: list[str]) -> None:
    """Replaces links to files above the folder of the pages by downloads, in the source of one page."""
    source[0] = LINK.sub(lambda found: f"{{download}}`{found[1].strip('`')} <{found[2]}>`", source[0])
    up = "../" * page.count("/")
    source[0] = INCLUDED.sub(lambda found: f"]({up}{found[1].lower()}.md{found[2] or ''})", source[0])


def setup(app: Sphinx) -> dict:
    app.connect("source-read", use_downloads)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
