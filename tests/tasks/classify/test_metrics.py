import pytest
import torch
import torch.nn.functional as F

from rmt.tasks.classify.metrics import Scores


def test_scores_agree_with_counting_one_by_one():
    torch.manual_seed(0)
    logits, labels = torch.randn(50, 8), torch.randint(8, (50,))
    scores = Scores(8, confusion=True)
    for part in (slice(0, 20), slice(20, 50)):
        scores.update(logits[part], labels[part])
    top1 = top5 = 0
    matrix = torch.zeros(8, 8, dtype=torch.int64)
    for row, label in zip(logits, labels, strict=True):
        order = row.argsort(descending=True)
        top1 += int(order[0] == label)
        top5 += int(label in order[:5])
        matrix[label, order[0]] += 1
    assert scores.compute() == {
        "loss": pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5),
        "top1": 100 * top1 / 50,
        "top5": 100 * top5 / 50,
        "images": 50,
    }
    assert torch.equal(scores.confusion, matrix)


def test_fewer_than_five_classes():
    scores = Scores(2)
    scores.update(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    assert (scores.compute()["top1"], scores.compute()["top5"]) == (0, 100)
