"""The files around the project agree with it: citation, security policy, issue templates, release checklist."""

import re

import pytest
import yaml
from helpers.documentation import ROOT, page

import rmt

TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def test_the_citation_is_of_this_version_and_of_the_paper():
    citation = yaml.safe_load(page("CITATION.cff"))
    assert citation["version"] == rmt.__version__
    paper = citation["preferred-citation"]
    assert paper["title"] in page("README.md") and paper["year"] == 2024
    for author in paper["authors"]:
        assert f"{author['family-names']}, {author['given-names']}" in page("README.md")


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.name)
def test_an_issue_template_is_valid(file):
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    if file.name != "config.yml":
        assert {"name", "description", "body"} <= content.keys()
        ids = [part["id"] for part in content["body"] if part["type"] != "markdown"]
        assert ids and len(ids) == len(set(ids))


@pytest.mark.parametrize("name", ["RELEASING.md", "SECURITY.md", "CONTRIBUTING.md"])
def test_what_a_page_names_exists(name):
    text = page(name)
    for target in re.findall(r"make ([a-z-]+)", text):
        assert f"\n{target}:" in page("Makefile"), target
    for path in re.findall(r"`((?:src|tests|benchmarks|docs|scripts)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path
