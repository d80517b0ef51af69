"""The choice between whole images and sliding windows at the end of a run."""

import json

import pytest
from helpers.segment_data import make_segments
from helpers.segment_runs import tiny

import rmt
from rmt.inference.segment import SegmentPredictor, inference_from
from rmt.model import read_metadata
from rmt.tasks.segment.evaluate import evaluate_checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on images of 64 × 96 pixels with windows of 32."""
    root = tmp_path_factory.mktemp("run")
    data = make_segments(root / "data", train=8, val=3, height=64, width=96)
    recipe = tiny(
        data=str(data), long_side=96, short_side=64, sliding=True, choose_inference=True, output=str(root / "run")
    )
    return rmt.train(recipe).folder, str(data)


def test_both_ways_are_measured_and_the_better_one_is_the_files(run, capsys):
    folder, data = run
    metrics = json.loads((folder / "metrics.json").read_text())
    scores = metrics["inference"]
    for mode, score in scores.items():
        measured = evaluate_checkpoint(folder, data, inference=mode, workers=0)["miou"]
        assert measured == pytest.approx(score, abs=1e-9)
    better = max(scores, key=scores.get)
    for name in ("best", "last", "last-ema"):
        assert read_metadata(folder / f"{name}.safetensors")["preprocessing"]["inference"] == better
    assert metrics["best"]["val"]["miou"] == pytest.approx(scores[better], abs=1e-9)
    assert evaluate_checkpoint(folder, data, workers=0)["miou"] == pytest.approx(scores[better], abs=1e-9)


def test_a_predictor_follows_the_file_unless_told_otherwise(run):
    metadata = SegmentPredictor.load(run[0]).metadata
    chosen = metadata["preprocessing"]["inference"]
    assert inference_from(metadata).sliding == (chosen == "sliding")
    assert inference_from(metadata, mode="whole").sliding is False
    assert inference_from(metadata, mode="sliding").sliding is True


def test_the_summary_says_it(run):
    from rmt.tasks.segment.task import summary
    from rmt.training.run_folder import RunFolder

    metrics = json.loads((run[0] / "metrics.json").read_text())
    (line,) = [line for line in summary(metrics, RunFolder.open(run[0])) if line.startswith("inference:")]
    assert "sliding windows" in line and "whole images" in line and "--inference" in line


def test_images_that_fit_a_window_have_one_score(tmp_path):
    data = make_segments(tmp_path / "data", train=8, val=2, height=32, width=32)
    recipe = tiny(
        data=str(data),
        sliding=True,
        choose_inference=True,
        output=str(tmp_path / "run"),
        long_side=32,
        iterations=2,
        warmup_iterations=0,
    )
    assert rmt.train(recipe).metrics["inference"] == {}
