from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from helpers.runs import tiny_recipe
from PIL import Image
from rich.console import Console

import rmt
from rmt.inference.runtime import TorchRuntime
from rmt.tasks.classify.data import ClassifyData
from rmt.tasks.classify.evaluate import Predictions
from rmt.tasks.classify.module import ClassifyModule
from rmt.tasks.classify.report import draw_report
from rmt.tasks.classify.task import summary
from rmt.training.checkpoints.weights import WeightFiles
from rmt.training.logging.history import History
from rmt.training.run_folder import RunFolder
from rmt.training.task import FinishedRun

SCORES = {"loss": 0.5, "top1": 80.0, "top5": 99.0, "macro_recall": 60.0, "images": 12}
METRICS = {
    "recipe": "tiny",
    "seed": 0,
    "model": "rmt",
    "parameters": 1_000_000,
    "classes": 3,
    "images": {"train": 24, "val": 12, "test": 12},
    "training_seconds": 60.0,
    "effective_batch": 4,
    "peak_lr": 1e-3,
    "machine": {"device": "cpu", "precision": "fp32"},
    "last": {"epoch": 1, "raw": {"val": SCORES, "test": SCORES}},
    "best": {"epoch": 1, "weights": "raw", "val": SCORES, "test": SCORES},
    "best_chosen_on": "12 images",
    "macro_f1": 70.0,
    "per_class": {
        name: {"precision": 70.0, "recall": 80.0, "f1": 74.67, "images": 4} for name in ("ant", "bee", "cat")
    },
    "unreadable": {},
    "skipped_files": {},
    "images_per_s": 10.0,
}


def draw(folder: Path, model: str, classes: int = 3, **changes) -> Image.Image:
    recipe = tiny_recipe(nodes=1, **changes)
    module = ClassifyModule(rmt.create_model("rmt_test", num_classes=3), recipe, ClassifyData.open(recipe))
    history = History(folder / "metrics.csv", module.metric_columns)
    history.add("step", 1, lr=1e-3, train_loss=1.0)
    history.add("epoch", 1, lr=1e-3, train_loss=1.0, val_loss=1.0, **{f"val_{recipe.metric}": 80.0}, images_per_s=3.0)
    history.close()
    label = np.arange(12) // 4
    predictions = Predictions(np.arange(12), label, np.roll(label, 2), np.full(12, 0.7, np.float32))
    network = timm.create_model(model, num_classes=3)
    files = WeightFiles(folder, network, (), {}, recipe)
    run = FinishedRun(RunFolder(folder), history, files, torch.device("cpu"), "fp32", Console())
    confusion = np.ones((classes, classes), np.int64)
    evaluator = SimpleNamespace(confusion_matrix=lambda: confusion, predictions=lambda: predictions)
    draw_report(module, run, METRICS, evaluator, TorchRuntime(network, torch.device("cpu")))
    with Image.open(folder / "report.png") as picture:
        picture.load()
        return picture


def test_the_closing_table_shows_no_set_of_images_twice(tmp_path):
    without = METRICS | {key: {k: v for k, v in METRICS[key].items() if k != "test"} for key in ("best",)}
    without["last"] = {"epoch": 1, "raw": {"val": SCORES}}
    one, two = (summary(metrics, RunFolder(tmp_path)) for metrics in (without, METRICS))
    assert summary(METRICS | {"test_is_val": True}, RunFolder(tmp_path)) == one  # as earlier versions wrote it
    assert one[1].split() == ["val", "top-1", "val", "top-5", "val", "loss"]
    assert two[1].split() == ["val", "top-1", "test", "top-1", "test", "top-5", "test", "loss"]
    assert one[2].split()[-5:] == ["80.00", "%", "99.00", "%", "0.5000"]
    for lines in (one, two):
        assert {len(line) for line in lines[1:4]} == {len(lines[1])}
    assert any("val images: macro F1 70.00 %" in line for line in one)
    assert ["ant", "70.00", "%", "80.00", "%", "74.67", "%", "4"] in [line.split() for line in two]
    assert "there are no separate test images" in one[4] and "the test images were read once" in two[4]


@pytest.mark.parametrize("model", ["rmt_pico", "rmt_deit_small", "resnet10t"])
def test_a_page_is_drawn_for_any_network(tmp_path, model):
    picture = draw(tmp_path, model)
    assert picture.width == 1600
    pixels = np.asarray(picture.convert("RGB"))
    assert (pixels != 255).any(axis=(1, 2)).mean() > 0.5  # something on most lines


def test_the_head_has_the_score_that_best_is_chosen_by(tmp_path, monkeypatch):
    heads = []
    monkeypatch.setattr("rmt.training.logging.plots.title", lambda *args: heads.append(args[4:]))
    draw(tmp_path, "resnet10t", metric="macro_recall")
    ((scores, label),) = heads
    assert {score for _, score in scores} == {"60.00 %"} and label == "test macro recall on 12 images"
