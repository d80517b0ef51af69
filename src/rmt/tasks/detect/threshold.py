"""The score threshold of a detector that gives the best F1 on images with known objects."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.ops import box_iou

from rmt.data.detection.dataset import DetectionSet, Objects
from rmt.inference.detect import Detections

_OVERLAP = 0.5  # IoU from which a detection counts as right


@dataclass(frozen=True)
class ScoreThreshold:
    """A threshold in [0, 1], and F1, precision and recall in percent of the detections with at least that score."""

    score: float
    f1: float
    precision: float
    recall: float


def best_threshold(images: DetectionSet, detections: Mapping[int, Detections]) -> ScoreThreshold | None:
    """The threshold of the best F1 over all classes, boxes matched at IoU 0.5; None if nothing is found rightly.

    Args:
        images: the set.
        detections: by image index; other images do not count. Crowd regions count as no objects.
    """
    scores, right, objects = [], [], 0
    for index, found in detections.items():
        truth = images.objects(index)
        scores.append(found.scores)
        right.append(match(found, truth))
        objects += len(truth.labels)
    return best_f1(np.concatenate(scores), np.concatenate(right), objects) if scores else None


def match(found: Detections, truth: Objects) -> np.ndarray:
    """(n,) bool: which detections are right. Each, highest score first, takes the free object of its class that it
    overlaps most, if the IoU is at least 0.5."""
    right = np.zeros(len(found.scores), dtype=bool)
    if not len(right) or not len(truth.labels):
        return right
    overlaps = box_iou(torch.from_numpy(found.boxes), torch.from_numpy(truth.boxes)).numpy()
    overlaps[found.labels[:, None] != truth.labels[None]] = 0
    for number in np.argsort(-found.scores, kind="stable"):
        best = overlaps[number].argmax()
        if overlaps[number, best] >= _OVERLAP:
            right[number] = True
            overlaps[:, best] = 0
    return right


def best_f1(scores: np.ndarray, right: np.ndarray, objects: int) -> ScoreThreshold | None:
    """The best of the thresholds between neighbouring scores.

    Args:
        scores: (n,) of the detections.
        right: (n,) bool, whether each is right.
        objects: number of objects.
    """
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(right[order])
    kept = np.arange(1, len(scores) + 1)
    last = np.flatnonzero(np.append(scores[1:] < scores[:-1], True))  # of equal scores, all are kept or none
    if not len(scores) or hits[-1] == 0:
        return None
    f1 = 2 * hits / (kept + objects)
    best = last[f1[last].argmax()]
    below = float(scores[best + 1]) if best + 1 < len(scores) else 0.0
    middle = (float(scores[best]) + below) / 2
    # Rounded so far as it stays between the two scores: the file and the text then show the same number.
    score = next(r for digits in range(2, 9) if below < (r := round(middle, digits)) <= scores[best] or digits == 8)
    return ScoreThreshold(
        score, 100 * float(f1[best]), 100 * float(hits[best] / kept[best]), 100 * float(hits[best] / max(objects, 1))
    )
