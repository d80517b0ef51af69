"""Runs started from Python: by a recipe's name, from a script without a guard, and resumed from another folder."""

import multiprocessing
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.kills import Killed, killed_at, run_until_killed
from helpers.runs import assert_same_run, finished_run, photos, rows, tiny_recipe

import rmt
from rmt.recipes import RECIPES
from rmt.tasks import resume
from rmt.training.main_guard import require_main_guard
from rmt.training.relocate import find_again
from rmt.training.run_folder import RunFolder


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    monkeypatch.setattr("rmt.tasks.classify.report.draw_report", lambda *args: None)


def test_a_recipe_is_named_and_changed_by_keywords(tmp_path):
    values = {k: v for k, v in tiny_recipe(epochs=1).as_dict().items() if k not in ("task", "name", "data", "output")}
    run = rmt.train("quickstart", data=Path(photos()), output=tmp_path / "run", **values).folder
    assert RunFolder.open(run).read_recipe().name == "quickstart"
    assert [row["epoch"] for row in rows(run) if row["kind"] == "epoch"] == ["1"]


@pytest.mark.parametrize(
    ("word", "fields", "message"),
    [
        ("fintune", {}, "unknown recipe 'fintune': did you mean finetune"),
        ("finetune", {"dta": "x"}, "has no field 'dta': did you mean data"),
        ("finetune", {"epochs": "3"}, "--epochs must be a whole number, not '3'"),
        ("finetune", {"epochs": True}, "--epochs must be a whole number, not 'True'"),
        ("finetune", {"lr": None}, "--lr must be a number, not 'None'"),
        ("finetune", {"data": 3}, "--data must be text"),
        (
            "finetune-detect",
            {"train_short_sides": ["a"]},
            "--train-short-sides must be a list of whole numbers or ",
        ),
        ("finetune", {"device": "gpu"}, "--device must be auto, cpu, cuda, mps, not 'gpu'"),
        ("finetune", {"batch_size": 0}, "--batch-size must be at least 1"),
        ("finetune", {"data": "nowhere"}, "nowhere"),
        ("none.py:x", {}, "no recipe file"),
    ],
    ids=str,
)
def test_mistakes_are_one_line(word, fields, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(rmt.RMTError, match=message) as error:
        rmt.train(word, **fields)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_s_values_are_of_their_types(name):
    assert RECIPES[name]().wrong_types() == []


def test_a_recipe_object_with_a_wrong_type_is_refused():
    with pytest.raises(rmt.RMTError, match="--flip must be a number"):
        rmt.train(replace(tiny_recipe(), flip="often"))


UNGUARDED = """
import multiprocessing, sys, types
multiprocessing.set_start_method("spawn")
import rmt.training.run as run
from rmt.training.machine import Machine
import rmt.tasks
def stop(recipe):
    raise rmt.errors.RMTError("further")
Machine.detect = stop
import rmt.errors, rmt
def go():
    return rmt.train("quickstart", workers={workers})
try:
    {call}
except rmt.errors.RMTError as error:
    print("line:", error)
"""


@pytest.mark.parametrize(
    ("call", "workers", "refused"),
    [
        ("go()", 1, True),
        ("if __name__ == '__main__': go()", 1, False),
        pytest.param("go()", 0, False, marks=pytest.mark.slow),
        pytest.param("if '__main__' == __name__:\n        go()", 2, False, marks=pytest.mark.slow),
        pytest.param("if True: go()", 2, True, marks=pytest.mark.slow),
    ],
)
def test_a_script_that_its_workers_would_run_again_is_refused_by_one_line(tmp_path, call, workers, refused):
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED.format(call=call, workers=workers))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("line:")]
    assert ('if __name__ == "__main__":' in line and str(script) in line) if refused else line == "line: further"


def test_a_worker_that_imports_such_a_script_ends(monkeypatch):
    require_main_guard(0)
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(SystemExit, match="__main__"):
        require_main_guard(0)


@pytest.mark.parametrize("beside", [True, False], ids=["in the project", "elsewhere"])
def test_a_run_that_is_resumed_from_another_folder_finds_its_data(tmp_path, monkeypatch, beside):
    """Also a second time; what the run did before is what a run in one go does."""
    project, other = tmp_path / "project", tmp_path / "other"
    other.mkdir()
    shutil.copytree(photos(), project / "data" / "photos")
    monkeypatch.chdir(project)
    run = (project if beside else tmp_path / "scratch") / "runs" / "run"
    with monkeypatch.context() as patch:
        killed_at(patch, "training_step", 9)
        run_until_killed(tiny_recipe(data="data/photos", output=os.path.relpath(run) if beside else str(run)))
    monkeypatch.chdir(other)
    with monkeypatch.context() as patch:
        killed_at(patch, "training_step", 3)
        with pytest.raises(Killed):
            resume(run)
    monkeypatch.chdir(tmp_path)
    resume(run)
    assert_same_run(run, finished_run())
    assert RunFolder.open(run).read_recipe().data == str(project / "data" / "photos")


def test_paths_that_are_here_or_nowhere_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    for data in ("here", "nowhere", "sample", "https://host/here", str(tmp_path / "x"), ""):
        recipe = tiny_recipe(data=data)
        assert find_again(recipe, tmp_path / "here" / "run", str(tmp_path)) == recipe
