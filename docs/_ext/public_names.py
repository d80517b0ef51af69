"""The directive `public-names`: every name in the `__all__` of a package, from its docstring.

A name that several packages export is described where `packages()` lists it first, and linked from the others.
"""

import inspect
import re

from docstrings import escape
from names import comment, described_in, members, public_names
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from rmt.recipes import Recipe


class PublicNames(SphinxDirective):
    required_arguments = 1  # the package

    def run(self) -> list:
        package = self.arguments[0]
        lines: list[str] = []
        others: list[str] = []
        for name, thing in public_names(package).items():
            first = described_in(package, name)
            if first != package:
                role = "class" if inspect.isclass(thing) else "func" if callable(thing) else "data"
                others.append(f":py:{role}:`{name} <{first}.{name}>`")
            elif inspect.isclass(thing):
                bases = "" if issubclass(thing, tuple) or thing.__bases__ == (object,) else "   :show-inheritance:"
                shown = f"   :members: {', '.join(members(thing))}" if members(thing) else ""
                # The fields of a recipe have a page of their own; Sphinx would print their checks as well.
                arguments = "(*, name, **fields)" if issubclass(thing, Recipe) else ""
                lines += [f".. autoclass:: {package}.{name}{arguments}", *filter(None, [shown, bases]), ""]
            elif inspect.isroutine(thing):
                lines += [f".. autofunction:: {package}.{name}", ""]
            else:
                text = [f"   {escape(line)}" for line in comment(package, name).splitlines()]
                lines += [f".. py:data:: {package}.{name}", "", *text, ""]
        if others:
            lines += ["", f"Also here: {', '.join(others)}."]
        fence = "``````"
        return self.parse_text_to_nodes("\n".join([f"{fence}{{eval-rst}}", *lines, fence]))


def mend_source_links(app: Sphinx, page: str, template: str, context: dict, doctree: object) -> None:
    """In the pages of source code, leads a link to the documentation of an object to the package that documents it.

    viewcode takes one package for all objects of a module, that of the first one.
    """
    if not page.startswith("_modules/"):
        return
    known = app.env.domains.python_domain.objects

    def right(found: re.Match) -> str:
        name = found["package"] + found["name"]
        if name not in known:
            name = next((other for other in known if other.endswith(found["name"])), name)
        return f'{found["page"]}#{name}"'

    link = r'(?P<page>href="[^"#]*reference/\w+\.html)#(?P<package>rmt(?:\.[a-z_]+)*)(?P<name>\.[\w.]+)"'
    context["body"] = re.sub(link, right, context["body"])


def setup(app: Sphinx) -> dict:
    app.connect("html-page-context", mend_source_links)
    app.add_directive("public-names", PublicNames)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
