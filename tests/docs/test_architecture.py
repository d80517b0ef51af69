"""docs/architecture.md: the committed picture is the one that today's imports give, and the files it names exist."""

import re
from pathlib import Path

import pytest
from helpers.scripts_under_test import script

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_the_picture_follows_from_the_imports():
    drawing = script("draw_architecture")
    assert drawing.TARGET.read_text(encoding="utf-8") == drawing.draw(), "run python scripts/draw_architecture.py"


def test_a_circle_is_an_error():
    drawing = script("draw_architecture")
    with pytest.raises(ValueError, match="in a circle: "):
        drawing.levels(["a", "b", "c"], {("a", "b"), ("b", "c"), ("c", "a")})


def test_arrows_that_follow_from_others_are_left_out():
    drawing = script("draw_architecture")
    pairs = {("a", "b"), ("b", "c"), ("a", "c")}
    assert drawing.without_implied(pairs) == {("a", "b"), ("b", "c")}
    assert drawing.levels(["a", "b", "c"], pairs) == {"c": 0, "b": 1, "a": 2}


def test_the_files_it_names_exist():
    named = re.findall(r"`((?:ops|model|training|tasks|tests)/[\w./]+)`", PAGE)
    assert len(named) > 8
    for name in named:
        where = name.replace("NAME", "classify")
        assert (ROOT / "src" / "rmt" / where).exists() or (ROOT / where).exists(), name


def test_every_package_stands_in_the_table():
    packages = {file.parent.name for file in (ROOT / "src" / "rmt").glob("*/__init__.py")}
    assert packages == set(re.findall(r"^\| `(\w+)/`", PAGE, re.M))
