"""`rmt evaluate` scores no image the run has learned from without a word, and says what it scored."""

import json
import os
import shutil
from pathlib import Path

import pytest
from helpers.pictures import make_folder
from helpers.runs import finished_run, photos, tiny_recipe

import rmt
from rmt.commands.cli import main
from rmt.data.sets import HoldOut
from rmt.data.splits import open_splits
from rmt.training.evaluation_facts import evaluation_line, run_hold_out


@pytest.fixture
def undivided(tmp_path) -> Path:
    """One folder of class folders, without splits: 24 images."""
    return make_folder(tmp_path / "photos") / "train"


def test_a_folder_that_the_run_divided_is_judged_by_what_it_held_out(undivided, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("rmt.tasks.classify.report.draw_report", lambda *args: None)
    run = tmp_path / "run"
    recipe = tiny_recipe(data=str(undivided), output=str(run), holdout=0.25, seed=7, epochs=1, warmup_epochs=0.0)
    best = rmt.train(recipe).metrics["best"]
    options = ["--device", "cpu", "--workers", "0"]
    for data in (undivided, Path(os.path.relpath(undivided))):  # however it is written
        capsys.readouterr()
        assert (
            main(["evaluate", str(run), "--data", str(data), *options, "--output", str(tmp_path / "found.json")]) == 0
        )
        kind = {"raw": "raw weights", "ema": "EMA weights"}[best["weights"]]
        line = capsys.readouterr().out.splitlines()[-1]
        assert line.startswith(f"best.safetensors (epoch 1, {kind}) on the 6 images that its run held out of {data}")
        found = json.loads((tmp_path / "found.json").read_text())
        assert (found["images"], found["top1"], found["loss"]) == (6, best["val"]["top1"], best["val"]["loss"])
    copy = shutil.copytree(undivided, tmp_path / "copy")
    assert main(["evaluate", str(run), "--data", str(copy), *options]) == 0  # it is the content that counts
    assert f"on the 6 images that its run held out of {copy}\n" in capsys.readouterr().out
    for folder in (copy, undivided):
        next(folder.glob("*/*.png")).unlink()
        assert main(["evaluate", str(run), "--data", str(folder), *options]) == 0
        assert "warning: best.safetensors" in (out := capsys.readouterr().out)
        why = "" if folder == copy else "they have changed since the run, and "
        assert f"on all of the 23 images of {folder}: {why}no held-out part is known" in out


def test_data_with_a_validation_split_are_judged_by_that(capsys):
    finished_run()
    capsys.readouterr()
    last = finished_run() / "last-ema.safetensors"
    assert main(["evaluate", str(last), "--data", photos(), "--device", "cpu", "--workers", "0"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    said = f"last-ema.safetensors (epoch 3, EMA weights) on the validation split of {photos()}, 12 images"
    assert line == said


def test_only_the_run_s_own_data_count_as_divided(undivided):
    metadata = {"recipe": {"data": str(undivided), "holdout": 0.2, "seed": 3}}
    assert run_hold_out(metadata, data=str(undivided)) == HoldOut(0.2, 3)
    assert run_hold_out(metadata, data=str(undivided.parent)) is None
    assert run_hold_out({"recipe": {"data": "s3://here", "holdout": 0.2, "seed": 3}}, data="s3://here") == HoldOut(
        0.2, 3
    )
    for broken in ({}, {"recipe": 3}, {"recipe": {"data": 3}}, {"recipe": metadata["recipe"] | {"seed": "x"}}):
        assert run_hold_out(broken, data=str(undivided)) is None
    assert len(open_splits(str(undivided), holdout=0.2, seed=3).val) == 5


def test_weights_that_do_not_say_their_epoch():
    about = {"file": "rmt_small.safetensors", "epoch": None, "weights": None, "data": "imagenet", "part": "val"}
    assert evaluation_line(about, 50_000) == "rmt_small.safetensors on the validation split of imagenet, 50,000 images"
