"""Counting pixels: mean IoU and its relatives, exact over any number of images and processes."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric


class Confusion(Metric):
    """Pixel counts of an evaluation. `update(predicted, truth)`: class maps of one shape; truth 255 does not count.

    The state is one int64 (K, K) matrix, a row per true class, which processes add up: nothing is averaged before the
    last pixel is in.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_classes: int, ignore: int = 255) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.ignore = ignore
        zeros = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state("counts", zeros, dist_reduce_fx="sum")

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        seen = truth != self.ignore
        pairs = truth[seen].long() * self.num_classes + predicted[seen].long()
        self.counts += torch.bincount(pairs, minlength=self.num_classes**2).view_as(self.counts)

    def compute(self) -> dict[str, float]:
        """See `overall`."""
        return overall(self.counts.cpu().numpy())


def per_class(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU and accuracy of each class in percent, float64 (K,); NaN for a class that occurs neither here nor there.

    IoU is hits / (true + predicted − hits), accuracy hits / true. counts: int64 (K, K), a row per true class.
    """
    hits, true, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100 * hits / (true + predicted - hits), 100 * hits / true


def overall(counts: np.ndarray) -> dict[str, float]:
    """miou and macc (means over the classes that occur), aacc (share of right pixels): percent; 0 without a pixel."""
    iou, accuracy = per_class(counts)
    return {
        "miou": _mean(iou),
        "macc": _mean(accuracy),
        "aacc": 100 * float(counts.diagonal().sum()) / max(int(counts.sum()), 1),
        "pixels": int(counts.sum()),
    }


def always(counts: np.ndarray, label: int) -> np.ndarray:
    """The counts that naming every pixel `label` would have given."""
    guess = np.zeros_like(counts)
    guess[:, label] = counts.sum(1)
    return guess


def table(counts: np.ndarray, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Per class: its name, IoU and accuracy in percent (None where the class does not occur), its pixels."""
    rows = zip(names, *per_class(counts), counts.sum(1), strict=True)
    return [
        {"class": name, "iou": _or_none(iou), "accuracy": _or_none(accuracy), "pixels": int(pixels)}
        for name, iou, accuracy, pixels in rows
    ]


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else 0.0


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
