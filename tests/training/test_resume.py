"""Nothing lost: a run that was stopped anywhere and resumed ends as if nothing had happened."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.kills import EACH_UPDATE, Killed, killed_at, run_until_killed
from helpers.runs import assert_same_run, finished_run, rows, tiny_recipe

import rmt
from rmt.tasks import TrainingStopped, resume
from rmt.tasks.classify import TASK
from rmt.tasks.classify.module import ClassifyModule
from rmt.training.checkpoints.io import AtomicCheckpointIO, previous, read_state
from rmt.training.progress import Best
from rmt.training.run_folder import RunFolder


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    finished_run()
    monkeypatch.setattr("rmt.tasks.classify.report.draw_report", lambda *args: None)


# A run has 3 epochs of 6 batches, 3 updates and 2 evaluation batches each.
@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("training_step", 1),  # before the first state
        ("training_step", 4),  # inside an accumulation
        pytest.param("training_step", 9, marks=pytest.mark.slow),  # in the second epoch
        pytest.param("validation_step", 1, marks=pytest.mark.slow),
        ("validation_step", 4),
        ("optimizer_step", 6),
    ],
)
def test_a_kill_anywhere(tmp_path, monkeypatch, method, call):
    with monkeypatch.context() as patch:
        killed_at(patch, method, call)
        run_until_killed(tiny_recipe(output=str(tmp_path), checkpoint_minutes=EACH_UPDATE))
    resume(tmp_path)
    assert_same_run(tmp_path, finished_run())


def test_with_states_at_epoch_ends_only(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        killed_at(patch, "training_step", 17)
        run_until_killed(tiny_recipe(output=str(tmp_path)))
    assert read_state(tmp_path / "last.ckpt")["global_step"] == 6
    resume(tmp_path)
    assert_same_run(tmp_path, finished_run())


@pytest.mark.parametrize("after", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_kill_around_a_save(tmp_path, monkeypatch, after):
    with monkeypatch.context() as patch:
        killed_at(patch, "save_checkpoint", 5, owner=AtomicCheckpointIO, after=after)
        run_until_killed(tiny_recipe(output=str(tmp_path), checkpoint_minutes=EACH_UPDATE))
    resume(tmp_path)
    assert_same_run(tmp_path, finished_run())


def test_killed_again_and_again(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        killed_at(patch, "training_step", 4)
        run_until_killed(tiny_recipe(output=str(tmp_path), checkpoint_minutes=EACH_UPDATE))
    for _ in range(2):
        with monkeypatch.context() as patch:
            killed_at(patch, "training_step", 5)
            with pytest.raises(Killed):
                resume(tmp_path)
    resume(tmp_path)
    assert_same_run(tmp_path, finished_run())


def killed(*args):
    raise Killed


def test_after_the_last_epoch_only_the_judging_is_left(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("rmt.tasks.classify.TASK", replace(TASK, finish=killed))
        run_until_killed(tiny_recipe(output=str(tmp_path)))
    resume(tmp_path)
    assert_same_run(tmp_path, finished_run())
    assert (tmp_path / "metrics.json").exists()


def test_after_an_early_stop_only_the_judging_is_left(tmp_path, monkeypatch):
    """The first of the two scores stays the best, so that a patience of one ends the run after two of three epochs."""
    monkeypatch.setattr(
        Best, "offer", lambda self, score, epoch, margin, offer=Best.offer: epoch == 1 and offer(self, 1, 1)
    )
    recipe = tiny_recipe(early_stopping=1)
    rmt.train(replace(recipe, output=str(tmp_path / "whole")))
    assert [row["epoch"] for row in rows(tmp_path / "whole") if row["kind"] == "epoch"] == ["1", "2"]
    with monkeypatch.context() as patch:
        patch.setattr("rmt.tasks.classify.TASK", replace(TASK, finish=killed))
        run_until_killed(replace(recipe, output=str(tmp_path / "killed")))
    resume(tmp_path / "killed")
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    # A longer patience, accepted, goes on: nothing of the old decision is left.
    result = resume(tmp_path / "killed", replace(recipe, early_stopping=2, output=""), accept_changes=True)
    assert result.metrics["last"]["epoch"] == 3


def test_a_truncated_state_is_reported_and_the_one_before_used(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        killed_at(patch, "training_step", 12)
        run_until_killed(tiny_recipe(output=str(tmp_path), checkpoint_minutes=EACH_UPDATE))
    before = read_state(previous(tmp_path / "last.ckpt"))["global_step"]
    assert before < read_state(tmp_path / "last.ckpt")["global_step"]
    os.truncate(tmp_path / "last.ckpt", 5000)
    resume(tmp_path)
    assert "last.ckpt is not a complete checkpoint" in capsys.readouterr().out
    assert_same_run(tmp_path, finished_run())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_saves_and_stops(tmp_path, monkeypatch, number):
    original, calls = ClassifyModule.training_step, []

    def signalled(self, batch, batch_idx):
        calls.append(batch_idx)
        if len(calls) == 3:  # the first half of an accumulation
            os.kill(os.getpid(), number)
        return original(self, batch, batch_idx)

    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        patch.setattr(ClassifyModule, "training_step", signalled)
        with pytest.raises(TrainingStopped, match=f"after update 2, checkpoint saved.*--resume {tmp_path}") as stopped:
            rmt.train(tiny_recipe(output=str(tmp_path)))
    assert stopped.value.signal_number == number
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    assert read_state(tmp_path / "last.ckpt")["global_step"] == 2
    resume(tmp_path)
    assert_same_run(tmp_path, finished_run())


def test_the_second_ctrl_c_stops_at_once(tmp_path, monkeypatch):
    def twice(self, batch, batch_idx):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(ClassifyModule, "training_step", twice)
    with pytest.raises(TrainingStopped, match="before the first checkpoint"):
        rmt.train(tiny_recipe(output=str(tmp_path)))


def test_a_changed_recipe_is_refused_unless_accepted(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        killed_at(patch, "training_step", 9)
        run_until_killed(tiny_recipe(output=str(tmp_path)))
    changed = tiny_recipe(output=str(tmp_path), lr=1e-4, workers=1)
    with pytest.raises(rmt.RMTError, match=r"lr 0\.002 -> 0\.0001.*--accept-changes") as refused:
        resume(tmp_path, changed)
    assert "workers" not in str(refused.value)  # which changes nothing
    result = resume(tmp_path, changed, accept_changes=True)
    assert "recipe changed: lr" in capsys.readouterr().out
    assert result.metrics["peak_lr"] == 1e-4


def test_another_network_is_refused_and_the_run_stays_as_it_was(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run(), run)
    recipe = RunFolder.open(run).read_recipe()
    before = (run / "recipe.json").read_bytes()
    with pytest.raises(rmt.RMTError, match="--model rmt_pico: the run has a checkpoint of rmt_test") as error:
        resume(run, replace(recipe, model="rmt_pico"), accept_changes=True)
    assert "\n" not in str(error.value)
    assert (run / "recipe.json").read_bytes() == before


def test_another_machine_goes_on_in_the_same_arithmetic_or_asks(tmp_path, monkeypatch):
    """The run begins where "auto" comes to the CPU and bf16; both are part of its recipe from then on."""
    recipe = tiny_recipe(output=str(tmp_path), device="auto", precision="auto")
    with monkeypatch.context() as patch:
        killed_at(patch, "training_step", 9)
        patch.setattr("rmt.training.machine.choose_device", lambda device: torch.device("cpu"))
        patch.setattr("rmt.training.resolve.choose_precision", lambda precision, device: "bf16")
        run_until_killed(recipe)
    began = RunFolder.open(tmp_path).read_recipe()
    assert (began.device, began.precision) == ("cpu", "bf16")
    with pytest.raises(rmt.RMTError, match="precision 'bf16' -> 'fp32'"):
        resume(tmp_path, replace(began, precision="fp32"))
    with monkeypatch.context() as patch:
        patch.setattr("rmt.training.machine.choose_device", lambda device: torch.device("mps"))
        with pytest.raises(rmt.RMTError, match="device 'cpu' -> 'mps'"):
            resume(tmp_path, recipe)
    resume(tmp_path, replace(began, precision="auto"))
    whole = rmt.train(tiny_recipe(output=str(tmp_path / "whole"), precision="bf16"))
    assert_same_run(tmp_path, whole.folder)


def test_a_recipe_edited_in_the_folder_is_noticed(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        killed_at(patch, "training_step", 9)
        run_until_killed(tiny_recipe(output=str(tmp_path)))
    file = tmp_path / "recipe.json"
    file.write_text(file.read_text().replace('"epochs": 3', '"epochs": 5'))
    with pytest.raises(rmt.RMTError, match="epochs 3 -> 5"):
        resume(tmp_path)


def test_a_complete_run_stays_as_it_is(tmp_path, capsys):
    copy = shutil.copytree(finished_run(), tmp_path / "copy")
    times = {file.name: file.stat().st_mtime_ns for file in copy.iterdir()}
    resume(copy, replace(tiny_recipe(), output=str(copy)))
    assert "complete" in capsys.readouterr().out
    assert {file.name: file.stat().st_mtime_ns for file in copy.iterdir()} == times


@pytest.mark.parametrize(
    "files", [0, *(pytest.param(count, marks=pytest.mark.slow) for count in (5, 12)), 33]
)  # written before the disk is full: in the first epoch … at the end
def test_a_full_disk_stops_with_a_line_and_the_state_before_can_be_resumed(tmp_path, monkeypatch, files):
    original = os.fsync
    full = []

    def fill(handle):
        if len(full) >= files:
            raise OSError(28, "No space left on device")
        full.append(handle)
        return original(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fill)
        with pytest.raises(rmt.RMTError, match="cannot write .*: the disk is full: free some space"):
            rmt.train(tiny_recipe(output=str(tmp_path / "run"), checkpoint_minutes=EACH_UPDATE))
    if files == 0:
        assert not list((tmp_path / "run").iterdir())
        return
    assert files < 10 or read_state(tmp_path / "run" / "last.ckpt")["global_step"] > 0
    resume(tmp_path / "run")
    assert_same_run(tmp_path / "run", finished_run())


def kill_at_random_moments(folder, moments):
    """Real processes, killed by SIGKILL after random times; then one that may end."""
    recipe = tiny_recipe(output=str(folder), checkpoint_minutes=EACH_UPDATE)
    values = {k: v for k, v in recipe.as_dict().items() if k != "task"}
    code = (
        "import sys, torch; torch.set_num_threads(int(sys.argv[1])); sys.path.insert(0, sys.argv[2])\n"
        "import os, rmt, rmt.tasks, rmt.tasks.classify.report as p; from helpers import runs\n"
        "p.draw_report = lambda *a: None\n"
        "print('ready', flush=True)\n"
        f"recipe = rmt.recipes.ClassifyRecipe(**{values!r})\n"
        f"fresh = not os.path.exists({str(folder / 'recipe.json')!r})\n"
        f"rmt.train(recipe) if fresh else rmt.tasks.resume({str(folder)!r})\n"
    )
    tests = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", code, str(torch.get_num_threads()), tests]
    for moment in moments:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        time.sleep(moment)
        process.kill()
        process.communicate()
    subprocess.run(command, check=True, capture_output=True)


def test_sigkill_at_a_random_moment(tmp_path):
    kill_at_random_moments(tmp_path / "run", [random.Random(0).uniform(0.5, 2.5)])
    assert_same_run(tmp_path / "run", finished_run())


@pytest.mark.slow
def test_sigkill_at_twenty_random_moments(tmp_path):
    draw = random.Random(1)
    kill_at_random_moments(tmp_path / "run", [draw.uniform(0.2, 3.0) for _ in range(20)])
    assert_same_run(tmp_path / "run", finished_run())
