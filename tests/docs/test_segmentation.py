"""The code of docs/segmentation.md runs, and its figures are those of the committed runs."""

import json
import re

import pytest
from helpers.documentation import page, python_blocks

from rmt.recipes import ADE20K

PAGE = page("docs/segmentation.md")


@pytest.mark.slow  # `make test-docs` runs it, too
def test_the_first_piece_of_code_runs():
    found: dict = {}
    exec(python_blocks(PAGE)[0], found)
    assert found["logits"].shape == (1, 150, 96, 130)


def test_every_row_of_the_paper_is_on_the_page():
    for name in [*ADE20K, "finetune-segment"]:
        head, _, size = name.rpartition("-")
        listed = re.findall(rf"{head}-\{{([a-z,]*)\}}", PAGE)
        assert name in PAGE or size in listed[0].split(",")


def test_the_figures_are_those_of_the_committed_runs():
    for row in json.loads(page("benchmarks/segmentation-memory.json"))["runs"]:
        assert f"{row['added_mib']:,} MiB" in PAGE
