"""The tests that the documentation and the tables of recipe fields cite exist."""

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


def fields_tested_elsewhere() -> list[str]:
    """The files that the `ELSEWHERE` tables of the recipes' field tests name."""
    tables = [
        ast.literal_eval(node.value)
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ELSEWHERE"
    ]
    return sorted({where.partition(",")[0] for table in tables for where in table.values()} - {"above", "below"})


@pytest.mark.parametrize("file", fields_tested_elsewhere())
def test_a_file_named_in_a_table_of_fields_exists(file):
    assert (ROOT / "tests" / file).is_file()


def test_citations_are_found():
    assert len(cited()) > 50
    assert len(fields_tested_elsewhere()) > 10
