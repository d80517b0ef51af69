"""The suggested score threshold against trying every threshold."""

from types import SimpleNamespace

import numpy as np
import pytest

from rmt.data.detection.dataset import Objects
from rmt.inference.detect import Detections
from rmt.tasks.detect.threshold import best_f1, best_threshold, match


def found(boxes, labels, scores) -> Detections:
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), np.array(labels), np.array(scores, np.float32), None)


TRUTH = Objects(np.array([[0, 0, 10, 10], [20, 0, 30, 10], [0, 20, 10, 30]], np.float32), np.array([0, 0, 1]), None)


def test_each_object_is_found_once_by_the_highest_score_of_its_class():
    boxes = [[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 9], [0, 20, 10, 30], [40, 40, 50, 50], [20, 0, 30, 4]]
    detections = found(boxes, [0, 0, 1, 1, 0, 0], [0.6, 0.9, 0.8, 0.7, 0.5, 0.4])
    # The second takes the object of the first; the third is of another class; the last overlaps too little.
    assert match(detections, TRUTH).tolist() == [False, True, False, True, False, False]
    assert match(found([], [], []), TRUTH).tolist() == []


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_has_a_better_f1(seed):
    draw = np.random.default_rng(seed)
    scores, objects = draw.integers(1, 20, 40) / 20, 30  # many equal scores
    right = draw.random(40) < scores
    best = best_f1(scores, right, objects)

    def f1(threshold: float) -> float:
        kept = scores >= threshold
        return 100 * 2 * right[kept].sum() / (kept.sum() + objects)

    assert f1(best.score) == pytest.approx(best.f1)
    assert best.f1 == pytest.approx(max(f1(threshold) for threshold in np.linspace(0, 1, 201)))
    kept = scores >= best.score
    assert best.precision == pytest.approx(100 * right[kept].mean())
    assert best.recall == pytest.approx(100 * right[kept].sum() / objects)


def test_images_count_together_and_nothing_right_is_none():
    images = SimpleNamespace(objects=lambda index: TRUTH)
    good = found([[0, 0, 10, 10], [40, 40, 50, 50]], [0, 0], [0.9, 0.3])
    best = best_threshold(images, {0: good, 1: good})
    assert (best.score, best.precision) == (0.6, 100) and best.recall == pytest.approx(100 / 3)
    assert best_threshold(images, {0: found([[40, 40, 50, 50]], [0], [0.9])}) is None
    assert best_threshold(images, {}) is None
