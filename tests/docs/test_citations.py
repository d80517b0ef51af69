"""The tests that the documentation cites exist."""

import ast
import re

import pytest
from helpers.documentation import ROOT, page

# `heads/test_cascade.py::TestSampling::test_x`, and further names in the same file as `, `::test_y``.
CITATION = re.compile(r"`(?:tests/)?(\w+/(?:\w+/)*test_\w+\.py)((?:::\w+)*)`((?:, `(?:::\w+)+`)*)")


def cited() -> list[tuple[str, str]]:
    """(file, ::Class::test) of every citation."""
    found = set()
    for path in sorted((ROOT / "docs").glob("*.md")):
        for file, name, more in CITATION.findall(page(f"docs/{path.name}")):
            found |= {(file, name), *((file, other) for other in re.findall(r"`((?:::\w+)+)`", more))}
    return sorted(found)


@pytest.mark.parametrize(("file", "name"), cited())
def test_a_cited_test_exists(file, name):
    body = ast.parse(page(f"tests/{file}")).body
    for part in name.split("::")[1:]:
        (definition,) = [node for node in body if getattr(node, "name", None) == part]
        body = getattr(definition, "body", [])


def test_citations_are_found():
    assert len(cited()) > 50
