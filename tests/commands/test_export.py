"""`rmt export`: which images it checks on, what it measures, and what it prints."""

import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch
from helpers.runs import finished_run, photos

import rmt.export
from rmt.commands import cli
from rmt.tasks.classify.evaluate import evaluate_checkpoint


@pytest.fixture
def exported(monkeypatch):
    """What `rmt.export.export` is called with, instead of an export."""
    calls: list[dict] = []

    def note(checkpoint, output, options, **arguments):
        calls.append({"checkpoint": checkpoint, "output": output, "options": options, **arguments})
        check = {
            "compared": "outputs",
            "images": 3,
            "sizes": [[32, 40]],
            "error": 1e-7,
            "agreement": 100.0,
            "tolerance": 1e-4,
        }
        accuracy = {"metric": "top-1", "images": 12, "before": 90.0, "after": 89.5}
        return {"format": options.format, "precision": options.precision, "check": check, "accuracy": accuracy}

    monkeypatch.setattr(rmt.export, "export", note)
    monkeypatch.setitem(sys.modules, "nncf", types.ModuleType("nncf"))  # which the tests do not install
    sys.modules["nncf"].__spec__ = ModuleSpec("nncf", None)
    return calls


def error_of(capsys, *words: str) -> str:
    assert cli.main(["export", *words]) == 1
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text


def test_the_run_s_own_validation_images_are_checked_and_measured(exported, capsys):
    assert cli.main(["export", str(finished_run())]) == 0
    (call,) = exported
    assert call["checkpoint"] == Path(finished_run()) / "best.safetensors" and call["output"] is None
    assert len(call["images"]) == 12 and call["accuracy"].images == 12  # of val/, not of train/
    wanted = evaluate_checkpoint(finished_run(), photos(), device="cpu", workers=0)["top1"]
    assert call["accuracy"].measure(call["checkpoint"], None) == wanted
    predictor = rmt.load(finished_run(), device="cpu")
    torch.nn.init.zeros_(predictor.model.head.fc.weight)  # one class for all
    assert call["accuracy"].measure(call["checkpoint"], predictor) == pytest.approx(100 / 3)
    out = capsys.readouterr().out
    assert "largest error 1.0e-07 of the largest value (tolerance 1e-04)" in out and "3 images at 32×40" in out
    assert "top-1 90.00 % before, 89.50 % after, on 12 images" in out and "best.onnx: onnx, fp32" in out


def test_max_images_are_evenly_spread(exported):
    assert cli.main(["export", str(finished_run()), "--data", photos(), "--max-images", "5"]) == 0
    assert exported[0]["accuracy"].images == 5
    result = evaluate_checkpoint(finished_run(), photos(), device="cpu", workers=0, max_images=5)
    assert result["images"] == 5 and sum(map(sum, result["confusion"])) == 5
    assert sum(1 for row in result["confusion"] if sum(row)) == 3  # not the first five, all of one class


def test_images_and_calibration_from_folders(exported, tmp_path):
    assert cli.main(["export", str(finished_run()), "--images", photos()]) == 0
    words = ["--precision", "int8", "--calibration", photos(), "--calibration-images", "7"]
    assert cli.main(["export", str(finished_run()), *words]) == 0
    assert exported[0]["accuracy"] is None and len(exported[0]["images"]) == 32
    assert exported[1]["accuracy"].images == 12 and len(exported[1]["calibration"]) == 7


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "nowhere"], "nowhere"),
        (["--data", "sample", "--images", "x"], "--data: no effect with --images"),
        (["--images", "x", "--max-images", "9"], "--max-images: no effect with --images"),
        (["--calibration", "x", "--max-drop", "2"], "--calibration, --max-drop: no effect without --precision int8"),
        (["--license", "mit"], "--license: no effect without --format hub"),
        (["--format", "hub", "--output", "x", "--max-images", "9"], "--max-images: --format hub takes --output FOLDER"),
        (["--format", "hub", "--license", "mit"], "--format hub takes --output FOLDER, --license"),
        (["--data-license", "mit"], "--data-license: no effect without --format hub"),
        (["--data", "nowhere", "--max-images", "0"], "--max-images and --calibration-images must be at least 1"),
        # What needs no images is refused before they are opened:
        (["--data", "nowhere", "--output", "a.xml"], "--output a.xml: the file must end in .onnx"),
        (["--data", "nowhere", "--output", "no/a.onnx"], "cannot write no/a.onnx: its folder does not exist"),
        (["--data", "nowhere", "--precision", "bf16"], "--format onnx is offered in fp32, int8"),
        (["--data", "nowhere", "--precision", "int8"], "--precision int8 needs --calibration FOLDER"),
        (["--images", "no", "--precision", "int8", "--calibration", "no"], "int8 needs labelled images"),
    ],
)
def test_mistakes_are_one_line(exported, capsys, words, message):
    assert message in error_of(capsys, str(finished_run()), *words)
    assert not exported


def test_a_missing_package_is_reported_before_images_are_opened(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    words = ["--data", "nowhere", "--precision", "int8", "--calibration", "no"]
    assert "needs the package nncf: pip install" in error_of(capsys, str(finished_run()), *words)


def test_a_file_without_known_data_asks_for_images(exported, capsys, tmp_path):
    rmt.save_checkpoint(rmt.create_model("rmt_test", num_classes=2), tmp_path / "m.safetensors")
    assert "give --data (labelled data, as for training), or --images" in error_of(
        capsys, str(tmp_path / "m.safetensors")
    )
