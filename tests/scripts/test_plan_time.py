"""What `benchmarks/plan_time.py` reads: the plan that a run prints, and the seconds of its updates."""

import pytest
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
    lines = describe(outline, [], recipe, 1000, given=False)
    planned, step = PLAN_TIME.TIME.search(lines[3]), PLAN_TIME.STEP.search(lines[2])
    assert planned.groups() == ("12,345", "1", "07", "24") and step.groups() == ("50.5", "ms")


def test_seconds_of_an_update_leave_evaluations_out(tmp_path):
    rows = [("step", 1, 1, 0.5), ("step", 5, 1, 2.5), ("epoch", 5, 1, 2.5), ("step", 6, 2, 9.0), ("step", 10, 2, 11.0)]
    lines = ["kind,step,epoch,seconds", *(",".join(map(str, row)) for row in rows)]
    (tmp_path / "metrics.csv").write_text("\n".join(lines) + "\n")
    assert PLAN_TIME.step_seconds(tmp_path) == pytest.approx(0.5)
