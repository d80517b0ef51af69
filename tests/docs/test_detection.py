"""The code in docs/detection.md runs, and its figures are those of the committed results."""

import json
import re

import pytest
from helpers.documentation import page, python_blocks

from rmt.recipes import COCO

PAGE = page("docs/detection.md")


@pytest.mark.slow  # `make test-docs` runs it, too
def test_the_page_s_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found: dict = {}
    for code in python_blocks(PAGE):
        exec(code, found)
    assert found["kept"] == [f"norms.{i}" for i in range(4)]


def test_the_memory_s_figures():
    for name in ("detector-memory-plain", "detector-memory"):
        peaks = json.loads(page(f"benchmarks/{name}.json"))["peak_mib"]
        row = f"| {peaks['whole']:,.0f} MiB | {peaks['backbone']:,.0f} MiB |"
        assert row in PAGE and f"benchmarks/{name}.json" in PAGE


def test_every_row_of_the_paper_is_on_the_page():
    for name in COCO:
        head, size, schedule = re.fullmatch(r"(coco-.*)-(tiny|small|base|large)-(.x)", name).groups()
        (sizes,) = re.findall(rf"`{head}-\{{([a-z,]*)\}}-{schedule}`", PAGE)
        assert size in sizes.split(",")
