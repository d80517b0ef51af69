"""Precision, recall and F1 of each class, from a confusion matrix: counts (K, K) int64, a row per true class."""

from typing import Any

import numpy as np

from rmt.training.results import text_table

MOST = 20
"""Classes up to which their scores are printed without being asked for."""


def class_scores(confusion: np.ndarray, classes: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """For each class precision, recall and f1 in percent, and images, their number.

    The precision of a class that is never predicted is 0, as in scikit-learn; the recall of one without images is None.
    """
    hits, true, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    precision = 100 * hits / predicted.clip(min=1)
    recall = 100 * hits / true.clip(min=1)
    f1 = 200 * hits / (true + predicted).clip(min=1)
    return {
        name: {
            "precision": round(float(precision[k]), 2),
            "recall": round(float(recall[k]), 2) if true[k] else None,
            "f1": round(float(f1[k]), 2),
            "images": int(true[k]),
        }
        for k, name in enumerate(classes)
    }


def macro_f1(confusion: np.ndarray) -> float:
    """The mean of the classes' F1 in percent, over the classes that occur."""
    hits, true, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    scores = 200 * hits / (true + predicted).clip(min=1)
    return float(scores[true > 0].mean()) if true.any() else 0.0


def class_table(scores: dict[str, dict[str, Any]]) -> list[str]:
    """The scores as lines of a table."""
    rows: list[tuple[str, ...]] = [("class", "precision", "recall", "F1", "images")]
    for name, of in scores.items():
        shares = ("–" if of[key] is None else f"{of[key]:.2f} %" for key in ("precision", "recall", "f1"))
        rows.append((name, *shares, f"{of['images']:,}"))
    return text_table(rows)
