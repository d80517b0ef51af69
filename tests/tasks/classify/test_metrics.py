import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rmt.errors import RMTError
from rmt.tasks.classify.evaluate import ClassifyEvaluator


def batch(logits, labels, start=0):
    """Images that are their own logits."""
    return {"image": logits, "label": labels, "index": torch.arange(start, start + len(labels)), "bad": {}}


def test_metrics_agree_with_counting_one_by_one():
    torch.manual_seed(0)
    logits, labels = torch.randn(50, 8), torch.randint(8, (50,))
    evaluator = ClassifyEvaluator(8, 50, details=True)
    for part in (slice(0, 20), slice(20, 50)):
        evaluator.update(lambda images: images, batch(logits[part], labels[part], part.start))
    top1 = top5 = 0
    matrix = torch.zeros(8, 8, dtype=torch.int64)
    for row, label in zip(logits, labels, strict=True):
        order = row.argsort(descending=True)
        top1 += int(order[0] == label)
        top5 += int(label in order[:5])
        matrix[label, order[0]] += 1
    assert evaluator.compute() == {
        "loss": pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5),
        "top1": 100 * top1 / 50,
        "top5": 100 * top5 / 50,
        "macro_recall": pytest.approx(100 * float((matrix.diagonal() / matrix.sum(1))[matrix.sum(1) > 0].mean())),
        "images": 50,
    }
    assert np.array_equal(evaluator.confusion_matrix(), matrix)
    predictions = evaluator.predictions()
    assert predictions.index.tolist() == list(range(50)) and predictions.label.tolist() == labels.tolist()
    assert predictions.predicted.tolist() == logits.argmax(1).tolist()
    assert predictions.probability == pytest.approx(logits.softmax(1).amax(1).numpy())


def test_fewer_than_five_classes():
    evaluator = ClassifyEvaluator(2, 1)
    evaluator.update(lambda images: images, batch(torch.tensor([[1.0, 0.0]]), torch.tensor([1])))
    assert (evaluator.compute()["top1"], evaluator.compute()["top5"]) == (0, 100)


def test_a_reset_starts_anew_and_nothing_read_is_an_error():
    evaluator = ClassifyEvaluator(2, 3, details=True)
    evaluator.update(lambda images: images, batch(torch.tensor([[1.0, 0.0]]), torch.tensor([1])))
    evaluator.reset()
    evaluator.update(lambda images: images, batch(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)))
    with pytest.raises(RMTError, match=r"none of the images to evaluate on \(3\) could be read"):
        evaluator.compute()
    evaluator.update(lambda images: images, batch(torch.tensor([[0.0, 1.0]]), torch.tensor([1])))
    assert evaluator.compute()["top1"] == 100 and evaluator.confusion_matrix().tolist() == [[0, 0], [0, 1]]
    assert len(evaluator.predictions().index) == 1
