"""`rmt train --resume RUN --minutes N`: a finished or stopped run is trained for some more minutes."""

import json
import math
import shutil
import time

import pytest
from helpers.runs import assert_same_run, finished_run, rows, tiny_recipe

import rmt
from rmt.commands.cli import main
from rmt.errors import RMTError
from rmt.recipes import from_dict
from rmt.tasks import resume
from rmt.training.checkpoints.callback import StateCheckpoint
from rmt.training.checkpoints.io import read_state
from rmt.training.logging.display import Display, duration
from rmt.training.measure import Timing
from rmt.training.schedules import restarted


@pytest.fixture(autouse=True)
def measured(monkeypatch):
    """A machine on which a step takes 2 s and an image 0.1 s: an epoch of 6 steps and 12 images takes 13.5 s."""
    finished_run()
    monkeypatch.setattr("rmt.tasks.classify.report.draw_report", lambda *args: None)
    monkeypatch.setattr("rmt.training.extend.measure", lambda *args: Timing(2.0, 0.1))
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)  # the command itself takes no time


def test_a_finished_run_goes_on(tmp_path, capsys):
    run = shutil.copytree(finished_run(), tmp_path / "run")
    assert main(["train", "--resume", str(run), "--minutes", "1"]) == 0
    said = capsys.readouterr().out
    assert "continuing for 1 minute: 3 more evaluations, 9 updates (measured 4.000 s each)" in said
    assert "until its next evaluation" not in said
    recipe = from_dict(json.loads((run / "recipe.json").read_text()))
    assert (recipe.epochs, recipe.restart_update, recipe.restart_lr, recipe.minutes) == (6, 9, 1e-3, 0)
    found = [row for row in rows(run) if row["kind"] == "epoch"]
    assert [row["epoch"] for row in found] == ["1", "2", "3", "4", "5", "6"]
    assert found[:3] == [row for row in rows(finished_run()) if row["kind"] == "epoch"]
    # the row of an epoch holds the rate of its last update
    expected = [restarted(9 + 3 * epoch - 1, 9, 18, 1e-3, 1e-5) for epoch in (1, 2, 3)]
    assert [float(row["lr"]) for row in found[3:]] == pytest.approx(expected)
    assert json.loads((run / "metrics.json").read_text())["last"]["epoch"] == 6


def test_minutes_that_are_too_few_for_one_evaluation_are_said_to_become_more(tmp_path, capsys, monkeypatch):
    ends: list[float] = []

    def shown(*args, planned_end, **kwargs):
        ends.append(planned_end)
        return Display(*args, planned_end=planned_end, **kwargs)

    monkeypatch.setattr("rmt.training.run.Display", shown)
    run = shutil.copytree(finished_run(), tmp_path / "run")
    assert main(["train", "--resume", str(run), "--minutes", "0.1"]) == 0
    said = capsys.readouterr().out
    assert "1 more evaluation, 3 updates" in said and "in all, as a run goes on until its next evaluation at" in said
    assert ends[0] > 1000 + 6 and f"{duration(ends[0] - 1000)} in all" in said


def test_an_extension_that_is_interrupted_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    whole, run = (shutil.copytree(finished_run(), tmp_path / name) for name in ("whole", "run"))
    resume(whole, minutes=1)

    class Killed(BaseException):
        pass

    save, calls = StateCheckpoint._save, []

    def fatal(self, trainer):
        calls.append(0)
        if len(calls) in (1, 3):  # before the first checkpoint of the extension, and later
            raise Killed
        save(self, trainer)

    with monkeypatch.context() as patch:
        patch.setattr(StateCheckpoint, "_save", fatal)
        with pytest.raises(Killed):
            resume(run, minutes=1)
        with pytest.raises(Killed):
            resume(run)
    resume(run)
    assert_same_run(run, whole)


def test_a_stopped_run_keeps_its_rate_where_that_is_higher(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def fatal(self, trainer, save=StateCheckpoint._save):
        save(self, trainer)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(StateCheckpoint, "_save", fatal)
        with pytest.raises(Killed):
            rmt.train(tiny_recipe(output=str(tmp_path / "run")))
    state = read_state(tmp_path / "run" / "last.ckpt")
    stopped_at = state["optimizer_states"][0]["param_groups"][0]["lr"]
    assert resume(tmp_path / "run", minutes=1).metrics["last"]["epoch"] == 4
    recipe = from_dict(json.loads((tmp_path / "run" / "recipe.json").read_text()))
    assert (recipe.restart_update, recipe.restart_lr) == (3, stopped_at) and stopped_at > 1e-3


def test_a_restart_is_a_cosine():
    rates = [restarted(update, 10, 20, 1.0, 0.1) for update in (0, 10, 15, 20, 25)]
    assert rates == pytest.approx([1.0, 1.0, 0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2, 0.1, 0.1])


def test_without_a_checkpoint_there_is_nothing_to_continue(tmp_path):
    run = shutil.copytree(finished_run(), tmp_path / "run")
    for file in run.glob("*.ckpt"):
        file.unlink()
    with pytest.raises(RMTError, match="--minutes cannot continue a run here: the run has no checkpoint yet"):
        resume(run, minutes=1)
