"""What `benchmarks/plan_time.py` reads: the plan that a run prints, and the seconds of its updates."""

import json

import pytest
from helpers.documentation import ROOT, page
from helpers.scripts_under_test import script

from rmt.recipes import finetune
from rmt.training.measure import Timing
from rmt.training.plan import Outline, describe
from rmt.training.task import Candidate

script("first_hour", "benchmarks")  # which it imports
PLAN_TIME = script("plan_time", "benchmarks")


def test_the_plan_that_is_printed_is_read():
    recipe = finetune().fill_open(minutes=90.0, batch_size=8)
    outline = Outline(
        Candidate(recipe, "a network", 1.0, 100), Timing(0.0505, 0.01), recipe, 12_345, 3, 30.0, 4000.0, 9.0, 5.0, True
    )
    lines = describe(outline, [], recipe, 1000, given=False, weights="")
    planned, step = PLAN_TIME.TIME.search(lines[3]), PLAN_TIME.STEP.search(lines[2])
    assert planned.groups() == ("12,345", "1", "07", "24") and step.groups() == ("50.5", "ms")


def test_seconds_of_an_update_leave_evaluations_out(tmp_path):
    rows = [("step", 1, 1, 0.5), ("step", 5, 1, 2.5), ("epoch", 5, 1, 2.5), ("step", 6, 2, 9.0), ("step", 10, 2, 11.0)]
    lines = ["kind,step,epoch,seconds", *(",".join(map(str, row)) for row in rows)]
    (tmp_path / "metrics.csv").write_text("\n".join(lines) + "\n")
    assert PLAN_TIME.step_seconds(tmp_path) == pytest.approx(0.5)


def test_the_table_has_a_column_for_each_number_of_busy_processes():
    kept = dict(cpu="a CPU", commit="abc", clock="wall")
    found = PLAN_TIME.table(
        [
            dict(data="bccd", busy=0, taken_share=1.014, planned_seconds=170, **kept),
            dict(data="bccd", busy=2, taken_share=0.9, planned_seconds=171, **kept),
            dict(data="camvid", busy=2, taken_share=1.2, planned_seconds=230, **kept),
        ]
    )
    assert found.splitlines() == [
        "| command | alone | beside 2 |",
        "|---|---|---|",
        "| `rmt train finetune-detect --data bccd --minutes 3` | 1.01 (170 s) | 0.90 (171 s) |",
        "| `rmt train finetune-segment --data camvid --minutes 4` | – | 1.20 (230 s) |",
        "",
        "Seconds taken ÷ planned (planned) on one core of a CPU, at abc.",
    ]


def test_the_page_shows_the_committed_measurement(tmp_path):
    copy = tmp_path / "page.md"
    copy.write_text(page("docs/training.md"), encoding="utf-8")
    results = ROOT / "benchmarks" / "plan-time.json"
    PLAN_TIME.fill(copy, PLAN_TIME.table(json.loads(results.read_text()) if results.exists() else []))
    assert copy.read_text(encoding="utf-8") == page("docs/training.md")
