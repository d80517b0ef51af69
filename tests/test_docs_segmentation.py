"""The commands and the code of docs/segmentation.md are understood, and its figures are those of the committed runs."""

import json
import re
import shlex
from pathlib import Path

import pytest
from test_docs_training import parse

from rmt.recipes import SEGMENT, Recipe

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "segmentation.md").read_text(encoding="utf-8")
LINES = PAGE.replace("\\\n", " ").splitlines()


@pytest.mark.parametrize("command", [line.strip() for line in LINES if line.strip().startswith("rmt ")])
def test_a_command_is_understood(command):
    parsed = parse(shlex.split(command)[1:])
    assert not isinstance(parsed, Recipe) or parsed.problems() == []


def test_the_first_piece_of_code_runs():
    found: dict = {}
    exec(re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[0], found)
    assert found["logits"].shape == (1, 150, 96, 130)


def test_every_row_of_the_paper_is_on_the_page():
    for name in SEGMENT:
        head, _, size = name.rpartition("-")
        listed = re.findall(rf"{head}-\{{([a-z,]*)\}}", PAGE)
        assert name in PAGE or size in listed[0].split(",")


def test_the_figures_are_those_of_the_committed_runs():
    for run in json.loads((ROOT / "benchmarks" / "segmentation-composites.json").read_text())["runs"]:
        assert f"{run['miou']:.1f} % | {run['foreground_miou']:.1f} %" in PAGE
    for row in json.loads((ROOT / "benchmarks" / "segmentation-memory.json").read_text())["runs"]:
        assert f"{row['added_mib']:,} MiB" in PAGE
