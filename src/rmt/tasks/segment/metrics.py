"""Mean IoU, mean and pixel accuracy from a confusion matrix, float64: counts are int64 (K, K), a row per true class."""

import math
from typing import Any

import numpy as np


def per_class(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU and accuracy of each class in percent, float64 (K,); NaN for a class that is neither there nor predicted.

    IoU is hits / (true + predicted − hits), accuracy hits / true.
    """
    hits, true, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100 * hits / (true + predicted - hits), 100 * hits / true


def mean_metrics(counts: np.ndarray) -> dict[str, float]:
    """miou and macc (means over the classes that occur) and aacc (share of correct pixels) in percent, and pixels."""
    iou, accuracy = per_class(counts)
    return {
        "miou": _mean(iou),
        "macc": _mean(accuracy),
        "aacc": 100 * float(counts.diagonal().sum()) / max(int(counts.sum()), 1),
        "pixels": int(counts.sum()),
    }


def foreground_miou(counts: np.ndarray, background: int) -> float:
    """Mean IoU in percent of the classes that occur, without class `background`."""
    return _mean(np.delete(per_class(counts)[0], background))


def constant_prediction(counts: np.ndarray, label: int) -> np.ndarray:
    """The counts that predicting `label` for every pixel gives."""
    constant = np.zeros_like(counts)
    constant[:, label] = counts.sum(1)
    return constant


def per_class_table(counts: np.ndarray, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Per class: class (its name), iou and accuracy in percent (None for a class that does not occur), pixels."""
    rows = zip(names, *per_class(counts), counts.sum(1), strict=True)
    return [
        {"class": name, "iou": _or_none(iou), "accuracy": _or_none(accuracy), "pixels": int(pixels)}
        for name, iou, accuracy, pixels in rows
    ]


def _mean(values: np.ndarray) -> float:
    """The mean of the values that are not NaN; 0 if all are."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else 0.0


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
