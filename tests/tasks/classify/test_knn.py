"""k-NN accuracy against a slow computation image by image."""

import math
from pathlib import Path

import pytest
import torch
from helpers.runs import finished_run, photos

import rmt
from rmt.commands.cli import main
from rmt.tasks.classify.evaluate import evaluate_checkpoint
from rmt.tasks.classify.knn import vote

OPTIONS = {"device": "cpu", "workers": 0, "batch_size": 5}


def slow(query, known, labels, k, skip=None):
    """The class with the most votes, one similarity after another."""
    ranked = []
    for number, vector in enumerate(known):
        if number != skip:
            cosine = sum(query * vector) / math.sqrt(sum(query * query) * sum(vector * vector))
            ranked.append((cosine.item(), labels[number]))
    votes: dict = {}
    for cosine, label in sorted(ranked, reverse=True)[:k]:
        votes[label] = votes.get(label, 0) + math.exp(cosine / 0.07)
    return max(votes, key=votes.get)


def test_votes(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr("rmt.tasks.classify.knn._SIMILARITIES", 64)  # several steps
    query, known, labels = torch.randn(9, 6), torch.randn(30, 6), torch.randint(4, (30,))
    for k in (1, 5, 99):
        want = [slow(q, known, labels.tolist(), k) for q in query]
        assert vote(query, known, labels, 4, k).tolist() == want
        want = [slow(known[i], known, labels.tolist(), k, skip=i) for i in range(30)]
        assert vote(known, known, labels, 4, k, own=torch.arange(30)).tolist() == want


def test_the_training_images_vote_for_those_to_validate_on(capsys):
    predictor = rmt.load(finished_run(), device="cpu")
    train, val = (sorted(Path(photos()).glob(f"{part}/*/*.png")) for part in ("train", "val"))
    known, labels = predictor.embed(train), [path.parent.name for path in train]
    right = [slow(q, known, labels, 3) == p.parent.name for q, p in zip(predictor.embed(val), val, strict=True)]
    result = evaluate_checkpoint(finished_run(), photos(), knn=True, neighbours=3, **OPTIONS)
    assert result["knn_top1"] == pytest.approx(100 * sum(right) / len(val))
    assert (result["images"], result["train_images"]) == (len(val), len(train))
    words = ["evaluate", str(finished_run()), "--data", photos(), "--knn", "--neighbours", "3", "--device", "cpu"]
    assert main([*words, "--workers", "0"]) == 0
    assert f"k-NN top-1 {result['knn_top1']:.2f} %   (12 images, by the 3 nearest of 24)" in capsys.readouterr().out


def test_without_other_images_each_is_classified_by_the_rest():
    """Also where some are chosen, and for classes that the network does not know."""
    predictor = rmt.load(finished_run(), device="cpu")
    paths = sorted(Path(photos()).glob("val/*/*.png"))
    known, labels = predictor.embed(paths), [path.parent.name for path in paths]
    right = [slow(known[i], known, labels, 2, skip=i) == labels[i] for i in range(len(paths))]
    result = evaluate_checkpoint(finished_run(), f"{photos()}/val", knn=True, neighbours=2, **OPTIONS)
    assert result["knn_top1"] == pytest.approx(100 * sum(right) / len(paths))
    some = evaluate_checkpoint(finished_run(), f"{photos()}/val", knn=True, neighbours=2, max_images=2, **OPTIONS)
    assert some["knn_top1"] == pytest.approx(50 * (right[0] + right[-1])) and some["train_images"] == len(paths)


def test_mistakes_are_one_line():
    for options, line in (({"knn": True, "neighbours": 0}, "at least 1"), ({"neighbours": 3}, "add --knn")):
        with pytest.raises(rmt.RMTError, match=line):
            evaluate_checkpoint(finished_run(), photos(), **options, **OPTIONS)
