"""The pages for your own data: their options exist, their figures are those of the committed runs."""

import json
import re
from statistics import median

import pytest
from helpers.documentation import ROOT, page, python_blocks
from helpers.scripts_under_test import script

from rmt.inference import predictor_class
from rmt.inference.detect import Detections
from rmt.recipes import RECIPES

PAGES = {name: page(f"docs/your-{name}.md") for name in ("photos", "boxes", "masks")}
TASKS = {"photos": "classify", "boxes": "detect", "masks": "segment"}
RESULTS = ROOT / "benchmarks" / "first-hour.json"


@pytest.mark.parametrize("name", PAGES)
def test_the_options_of_the_table_are_the_recipe_s(name):
    fields = RECIPES[{"classify": "finetune"}.get(TASKS[name], f"finetune-{TASKS[name]}")]().as_dict()
    rows = re.findall(r"^\| (`--.*?) \|", PAGES[name], re.M)
    assert len(rows) >= 8
    for option in re.findall(r"`--(?:no-)?([\w-]+)", " ".join(rows)):
        assert option.replace("-", "_") in fields, option


@pytest.mark.parametrize("name", PAGES)
def test_the_python_of_the_page_names_what_there_is(name):
    (code,) = python_blocks(PAGES[name])
    kind = predictor_class(TASKS[name])
    assert all(hasattr(kind, method) for method in re.findall(r"(?:classifier|detector|segmenter)\.(\w+)\(", code))
    assert set(re.findall(r"found\.(\w+)", code)) <= set(Detections.__dataclass_fields__)


@pytest.mark.skipif(not RESULTS.exists(), reason="the three data sets are not part of the project")
@pytest.mark.parametrize("name", [f"docs/your-{name}.md" for name in PAGES])
def test_the_figures_are_those_of_the_committed_runs(name, tmp_path):
    copy = tmp_path / "page.md"
    copy.write_text(page(name), encoding="utf-8")
    script("first_hour", "benchmarks").fill(copy, json.loads(RESULTS.read_text(encoding="utf-8")))
    assert copy.read_text(encoding="utf-8") == page(name)


@pytest.mark.skipif(not RESULTS.exists(), reason="the three data sets are not part of the project")
def test_the_readme_has_the_medians():
    runs = [run for run in json.loads(RESULTS.read_text(encoding="utf-8")) if run["kind"] == "rmt"]
    text = " ".join(page("README.md").split())
    for cell, said in (
        ("cifar10", "top-1 in 3 minutes on 10,000 photos"),
        ("bccd", "AP50 in 5 minutes on 205 photos"),
        ("camvid", "mIoU in 15 minutes on 367 street scenes"),
    ):
        assert f"{median(run['score'] for run in runs if run['cell'] == cell):.1f} % {said}" in text
