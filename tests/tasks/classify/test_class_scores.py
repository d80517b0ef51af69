"""Scores of each class, recomputed image by image."""

import numpy as np
import pytest

from rmt.tasks.classify.class_scores import class_scores, class_table, macro_f1
from rmt.tasks.classify.evaluate import describe

NAMES = ("ant", "bee", "cat", "dog")


def by_hand(true, predicted):
    """Precision, recall and F1 from sets of images."""
    found = {}
    for k, name in enumerate(NAMES):
        are, called = {i for i, t in enumerate(true) if t == k}, {i for i, p in enumerate(predicted) if p == k}
        precision = len(are & called) / len(called) if called else 0.0
        recall = len(are & called) / len(are) if are else None
        f1 = 2 * precision * recall / (precision + recall) if recall and precision else 0.0
        found[name] = {"precision": precision, "recall": recall, "f1": f1, "images": len(are)}
    return found


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_those_of_the_images(seed):
    draw = np.random.default_rng(seed)
    true, predicted = draw.integers(0, 3, 60), draw.integers(0, 4, 60)  # no dogs, but some called so
    if seed == 1:
        predicted[predicted == 1] = 0  # a class that is never predicted
    confusion = np.zeros((4, 4), dtype=np.int64)
    np.add.at(confusion, (true, predicted), 1)
    expected = by_hand(true.tolist(), predicted.tolist())
    for name, scores in class_scores(confusion, NAMES).items():
        for key, value in scores.items():
            wanted = expected[name][key]
            if key == "images" or wanted is None:
                assert value == wanted
            else:
                assert value == pytest.approx(100 * wanted, abs=0.006)
    occurring = [scores["f1"] for scores in expected.values() if scores["images"]]
    assert macro_f1(confusion) == pytest.approx(100 * np.mean(occurring))


def test_classes_that_are_never_predicted_show():
    """Two of four classes are left out: 80 % top-1 hides it, the table does not."""
    confusion = np.zeros((4, 4), dtype=np.int64)
    confusion[[0, 1, 2, 3], [0, 1, 0, 1]] = (40, 40, 10, 10)
    scores = class_scores(confusion, NAMES)
    assert [scores[name]["recall"] for name in NAMES] == [100, 100, 0, 0]
    assert macro_f1(confusion) == pytest.approx(100 * (80 / 90) / 2)
    assert class_table(scores)[3].split() == ["cat", "0.00", "%", "0.00", "%", "0.00", "%", "10"]


def test_many_classes_are_printed_on_request():
    names = tuple(f"class {number}" for number in range(30))
    scores = class_scores(np.eye(30, dtype=np.int64), names)
    result = {"top1": 100.0, "top5": 100.0, "macro_recall": 100.0, "macro_f1": 100.0, "loss": 0.1, "images": 30}
    result |= {"per_class": scores, "unreadable": {}}
    assert len(describe(result)) == 1 and "macro F1 100.00 %" in describe(result)[0]
    assert len(describe(result, per_class=True)) == 1 + 31
