"""Model files and interrupted runs that the commit 4ccfdac wrote keep loading, resuming and answering."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.coco_sets import make_coco
from helpers.pictures import make_folder
from helpers.segment_data import make_segments
from safetensors.torch import load_file

import rmt
from rmt.tasks import resume

EARLIER = Path(__file__).parents[1] / "data" / "earlier"
EXPECTED = json.loads((EARLIER / "expected.json").read_text())
TASKS = ("classify", "detect", "segment")
# The gradient of a bias before a BatchNorm is zero but for rounding, which Adam turns into whole steps. The mean that
# the BatchNorm keeps follows the bias, so that the answers hardly depend on either.
BEFORE_BATCHNORM = re.compile(r"(stem\.\d+|downsample\.0|head\.proj)\.bias$")
MEAN = re.compile(r"(stem\.\d+|downsample\.1|head\.norm)\.running_mean$")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder that the runs were made in: their recipes name data and output relative to it."""
    monkeypatch.chdir(tmp_path)
    make_folder(Path("photos"))
    make_coco(Path("coco"), train=9, val=4)
    make_segments(Path("segments"))
    return tmp_path


@pytest.mark.parametrize("task", TASKS)
def test_an_interrupted_run_goes_on(folder, task, monkeypatch):
    monkeypatch.setattr(f"rmt.tasks.{task}.report.draw_report", lambda *args: None)
    shutil.copytree(EARLIER / task, task)
    finished = resume(Path(task))
    expected = load_file(EARLIER / f"{task}-last.safetensors")
    state = load_file(Path(task) / "last.safetensors")
    assert state.keys() == expected.keys()
    for name, value in expected.items():  # another processor, or memory format, rounds otherwise
        free = BEFORE_BATCHNORM.search(name) or MEAN.search(name)
        assert (state[name] - value).abs().max() < (2e-3 if free else 2e-4), name
    if task == "classify":
        models = EARLIER / "classify-last.safetensors", Path("classify/last.safetensors")
        answers = [rmt.load(model, device="cpu").predict(Path("photos/val/red/0.png"))[0] for model in models]
        earlier, now = ({p.label: p.probability for p in predictions} for predictions in answers)
        assert now == pytest.approx(earlier, abs=1e-3)
    assert finished.metrics["last"]["epoch"] == EXPECTED[task]["last"]["epoch"]
    columns = (EARLIER / task / "metrics.csv").read_text().splitlines()[0]
    assert (Path(task) / "metrics.csv").read_text().splitlines()[0] == columns


@pytest.mark.parametrize("task", TASKS)
def test_a_model_file_answers_as_before(folder, task):
    predictor = rmt.load(EARLIER / f"{task}.safetensors", device="cpu")
    image, expected = Path("photos/val/red/0.png"), EXPECTED[task]["answer"]
    if task == "classify":
        got = [[p.label, p.probability] for p in predictor.predict(image)[0]]
        assert [name for name, _ in got] == [name for name, _ in expected]
        assert [share for _, share in got] == pytest.approx([share for _, share in expected], rel=1e-4)
    elif task == "detect":
        found = predictor.predict(image)[0]
        assert found.labels[:3].tolist() == expected["labels"]
        assert found.scores[:3].tolist() == pytest.approx(expected["scores"], rel=1e-3)
        assert found.boxes[:3] == pytest.approx(np.array(expected["boxes"]), abs=0.05)
    else:
        labels = predictor.segment(image)
        counts = labels.flatten().long().bincount(minlength=3).tolist()
        assert list(labels.shape) == expected["shape"]
        assert counts == pytest.approx(expected["counts"], abs=8)


@pytest.mark.parametrize("task", TASKS)
def test_the_run_folder_is_a_model(folder, task):
    assert rmt.load(EARLIER / task, device="cpu").metadata["recipe"]["name"] == task


@pytest.mark.parametrize("task", TASKS)
def test_loaded_weights_lie_in_aligned_memory(task):
    """Matrix libraries sum in another order where memory is not aligned: a loaded network would not equal the saved."""
    model = rmt.load(EARLIER / f"{task}.safetensors", device="cpu").model
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        assert value.data_ptr() % 64 == 0, name
