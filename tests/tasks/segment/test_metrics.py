import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rmt.errors import RMTError
from rmt.heads.segmentation.sliding import InferenceOptions
from rmt.tasks.segment.evaluate import SegmentEvaluator
from rmt.tasks.segment.metrics import constant_prediction, mean_metrics, per_class, per_class_table


def maps(seed, shape=(40, 50), classes=5):
    draw = np.random.default_rng(seed)
    truth = draw.integers(classes, size=shape).astype(np.uint8)
    truth[draw.random(shape) < 0.1] = 255
    truth[truth == 4] = 255  # class 4 never occurs
    predicted = np.where(draw.random(shape) < 0.6, np.minimum(truth, 3), draw.integers(4, size=shape)).astype(np.uint8)
    return predicted, truth


def evaluator(classes=5):
    preprocessing = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}
    return SegmentEvaluator(classes, 3, preprocessing=preprocessing, inference=InferenceOptions())


def update(evaluator, predicted, truth, classes=5):
    """One image, whose pixel values are what the network predicts."""

    def network(images):
        return F.one_hot(images[:, 0].round().long(), classes).permute(0, 3, 1, 2).float()

    image = torch.from_numpy(predicted).expand(3, -1, -1)
    mask = torch.from_numpy(truth)
    evaluator.update(network, {"image": [image], "mask": [mask], "index": torch.tensor([0]), "bad": {}})


def test_against_counting_pixel_by_pixel():
    evaluated = evaluator()
    hits, true, called = np.zeros(5), np.zeros(5), np.zeros(5)
    for seed in range(3):
        predicted, truth = maps(seed)
        update(evaluated, predicted, truth)
        for p, t in zip(predicted.ravel().tolist(), truth.ravel().tolist(), strict=True):
            if t != 255:
                hits[t] += p == t
                true[t] += 1
                called[p] += 1
    iou = [100 * hits[k] / (true[k] + called[k] - hits[k]) for k in range(4)]
    accuracy = [100 * hits[k] / true[k] for k in range(4)]
    result = evaluated.compute()
    assert result["miou"] == pytest.approx(np.mean(iou), rel=1e-12)  # class 4 does not pull it down
    assert result["macc"] == pytest.approx(np.mean(accuracy), rel=1e-12)
    assert result["aacc"] == pytest.approx(100 * hits.sum() / true.sum(), rel=1e-12)
    assert result["pixels"] == true.sum()
    assert evaluated.counts().dtype == np.int64
    rows = per_class_table(evaluated.counts(), tuple("abcde"))
    assert [row["iou"] for row in rows[:4]] == pytest.approx(iou)
    assert rows[4] == {"class": "e", "iou": None, "accuracy": None, "pixels": 0}


def test_parts_add_up_to_the_whole_in_any_order():
    whole = evaluator()
    parts = [evaluator() for _ in range(3)]
    for seed in range(6):
        update(whole, *maps(seed))
        update(parts[seed % 3], *maps(seed))
    assert np.array_equal(sum(part.counts() for part in parts), whole.counts())


def test_nothing_but_ignored_pixels_is_zero_not_nan():
    evaluated = evaluator(3)
    update(evaluated, np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8), 3)
    assert evaluated.compute() == {"miou": 0.0, "macc": 0.0, "aacc": 0.0, "pixels": 0}
    with pytest.raises(RMTError, match=r"none of the images to evaluate on \(3\) could be read"):
        evaluator(3).compute()


def test_a_reset_starts_anew():
    evaluated = evaluator()
    update(evaluated, *maps(0))
    evaluated.reset()
    update(evaluated, *maps(1))
    fresh = evaluator()
    update(fresh, *maps(1))
    assert np.array_equal(evaluated.counts(), fresh.counts())


def test_a_class_that_is_only_predicted_counts_as_zero():
    iou, accuracy = per_class(np.array([[8, 2], [0, 0]]))
    assert iou.tolist() == [80.0, 0.0]
    assert accuracy[0] == 80.0
    assert np.isnan(accuracy[1])


def test_predicting_one_class_everywhere():
    counts = np.array([[50, 10, 0], [5, 25, 0], [0, 0, 10]])
    constant = mean_metrics(constant_prediction(counts, 0))
    assert constant["miou"] == pytest.approx(60 / 3)  # 60 of 100 pixels, nothing of the others
    assert constant["aacc"] == 60.0
