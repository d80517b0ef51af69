"""Confident mistakes: which images `report.json` names."""

import json
from types import SimpleNamespace

import numpy as np
from helpers.runs import finished_run

from rmt.tasks.classify.evaluate import Predictions
from rmt.tasks.classify.mistakes import count_confident, surest_mistakes

IMAGES = SimpleNamespace(classes=("cat", "dog"), name=lambda index: f"{index}.png")


def predictions(*rows) -> Predictions:
    index, label, predicted, probability = zip(*rows, strict=True)
    return Predictions(np.array(index), np.array(label), np.array(predicted), np.array(probability, np.float32))


def test_mistakes_come_surest_first_by_file_name():
    found = predictions((5, 0, 1, 0.6), (2, 1, 1, 0.99), (7, 1, 0, 0.95), (1, 0, 1, 0.9))
    assert surest_mistakes(found, IMAGES, most=2) == [
        {"image": "7.png", "label": "dog", "predicted": "cat", "probability": 0.95},
        {"image": "1.png", "label": "cat", "predicted": "dog", "probability": 0.9},
    ]
    assert count_confident(found) == 2


def test_a_run_lists_them():
    listed = json.loads((finished_run() / "report.json").read_text())["surest_mistakes"]
    metrics = json.loads((finished_run() / "metrics.json").read_text())
    wrong = round(metrics["images"]["val"] * (1 - metrics["best"]["val"]["top1"] / 100))
    assert len(listed) == wrong
    assert all(entry["label"] != entry["predicted"] and entry["image"].endswith(".png") for entry in listed)
