import numpy as np
import pytest
import torch

from rmt.tasks.segment.metrics import Confusion, always, overall, per_class, table


def maps(seed, shape=(40, 50), classes=5):
    draw = np.random.default_rng(seed)
    truth = draw.integers(classes, size=shape).astype(np.uint8)
    truth[draw.random(shape) < 0.1] = 255
    truth[truth == 4] = 255  # class 4 never occurs
    predicted = np.where(draw.random(shape) < 0.6, np.minimum(truth, 3), draw.integers(4, size=shape)).astype(np.uint8)
    return predicted, truth


def test_against_counting_pixel_by_pixel():
    score = Confusion(5)
    hits, true, called = np.zeros(5), np.zeros(5), np.zeros(5)
    for seed in range(3):
        predicted, truth = maps(seed)
        score.update(torch.from_numpy(predicted), torch.from_numpy(truth))
        for p, t in zip(predicted.ravel().tolist(), truth.ravel().tolist(), strict=True):
            if t != 255:
                hits[t] += p == t
                true[t] += 1
                called[p] += 1
    iou = [100 * hits[k] / (true[k] + called[k] - hits[k]) for k in range(4)]
    accuracy = [100 * hits[k] / true[k] for k in range(4)]
    result = score.compute()
    assert result["miou"] == pytest.approx(np.mean(iou), rel=1e-12)  # class 4 does not pull it down
    assert result["macc"] == pytest.approx(np.mean(accuracy), rel=1e-12)
    assert result["aacc"] == pytest.approx(100 * hits.sum() / true.sum(), rel=1e-12)
    assert result["pixels"] == true.sum()
    assert score.counts.dtype == torch.int64
    rows = table(score.counts.numpy(), tuple("abcde"))
    assert [row["iou"] for row in rows[:4]] == pytest.approx(iou)
    assert rows[4] == {"class": "e", "iou": None, "accuracy": None, "pixels": 0}


def test_parts_add_up_to_the_whole_in_any_order():
    whole = Confusion(5)
    parts = [Confusion(5) for _ in range(3)]
    for seed in range(6):
        pair = [torch.from_numpy(part) for part in maps(seed)]
        whole.update(*pair)
        parts[seed % 3].update(*pair)
    assert torch.equal(sum(part.counts for part in parts), whole.counts)


def test_nothing_but_ignored_pixels_is_zero_not_nan():
    score = Confusion(3)
    score.update(torch.zeros(4, 4, dtype=torch.uint8), torch.full((4, 4), 255, dtype=torch.uint8))
    assert score.compute() == {"miou": 0.0, "macc": 0.0, "aacc": 0.0, "pixels": 0}


def test_a_class_that_is_only_predicted_counts_as_zero():
    iou, accuracy = per_class(np.array([[8, 2], [0, 0]]))
    assert iou.tolist() == [80.0, 0.0]
    assert accuracy[0] == 80.0
    assert np.isnan(accuracy[1])


def test_naming_one_class_always():
    counts = np.array([[50, 10, 0], [5, 25, 0], [0, 0, 10]])
    guess = overall(always(counts, 0))
    assert guess["miou"] == pytest.approx(60 / 3)  # 60 of 100 pixels, nothing of the others
    assert guess["aacc"] == 60.0
