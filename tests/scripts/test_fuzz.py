"""The fuzzer finds what it looks for: a traceback, a hang, an error of several lines."""

import json
import random
import time

import pytest
from helpers.scripts_under_test import script

from rmt.errors import RMTError


@pytest.fixture(scope="module")
def fuzz():
    return script("fuzz")


def refuse(draw):
    raise RMTError("one line")


def sprawl(draw):
    raise RMTError("two\nlines")


def compute(draw):
    end = time.process_time() + 5
    while time.process_time() < end:
        pass


@pytest.mark.parametrize(
    ("attempt", "outcome"),
    [
        (lambda draw: None, "taken"),
        (refuse, "refused"),
        (sprawl, "tracebacks"),
        (lambda draw: {}["missing"], "tracebacks"),
        pytest.param(compute, "hangs", marks=pytest.mark.slow),
    ],
)
def test_every_outcome_is_counted(fuzz, monkeypatch, attempt, outcome):
    monkeypatch.setitem(fuzz.KINDS, "images", lambda folder: attempt)
    monkeypatch.setattr(fuzz, "HANG", 1)
    found = fuzz.run_kind("images", 0.01, 0)
    assert found["inputs"] == found[outcome] >= 1
    assert bool(found["faults"]) == (outcome in ("tracebacks", "hangs"))


def test_changes_repeat_and_reach_everything(fuzz):
    content = {"a": [1, {"b": 2}], "c": "text"}
    changed = [fuzz.change_values(random.Random(seed), content) for seed in range(200)]
    assert str(changed) == str([fuzz.change_values(random.Random(seed), content) for seed in range(200)])
    assert content == {"a": [1, {"b": 2}], "c": "text"}
    assert {str(found) for found in changed if isinstance(found, dict) and "a" not in found}
    assert any(isinstance(found, dict) and found.get("a", [0])[-1:] not in ([{"b": 2}],) for found in changed)
    data = [fuzz.change_bytes(random.Random(seed), b"0123456789") for seed in range(100)]
    assert len(set(data)) > 50 and all(data)


def test_the_page_shows_the_committed_result(fuzz, tmp_path):
    """Zero tracebacks and hangs, less than 2 GB; a new result replaces the table."""
    content, page = json.loads(fuzz.RECORD.read_text()), fuzz.PAGE.read_text(encoding="utf-8")
    assert fuzz.TABLE[0] + fuzz.table(content) + fuzz.TABLE[1] in page
    assert list(content["results"]) == list(fuzz.KINDS)
    for found in content["results"].values():
        assert found["tracebacks"] == found["hangs"] == 0 < found["inputs"] and found["peak_mb"] < 2000
    other = tmp_path / "page.md"
    other.write_text(page, encoding="utf-8")
    fuzz.update_page(content | dict(about=content["about"] | dict(seed=1234)), other)
    assert "(seed 1234)" in other.read_text(encoding="utf-8")
    fuzz.update_page(content, other)
    assert other.read_text(encoding="utf-8") == page


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["images", "model_files", "coco", "annotations", "tables", "recipes", "states", "shards"]
)
def test_a_few_seconds_of_each_kind_find_nothing(fuzz, kind):
    found = fuzz.run_kind(kind, 10, 1)
    assert found["inputs"] > 10 and not found["faults"]
