"""Classes of different sizes: the metric that is chosen, and balanced sampling."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.resolved import resolved
from helpers.runs import photos, tiny_recipe
from PIL import Image

from rmt.errors import RMTError
from rmt.tasks.classify.baseline import MajorityBaseline
from rmt.tasks.classify.build import default_metric, resolve
from rmt.tasks.classify.data import ClassifyData


@pytest.fixture
def unbalanced(tmp_path) -> str:
    """Twelve grey and three white images to train on, and one of each to test."""
    for split, counts in (("train", {"grey": 12, "white": 3}), ("val", {"grey": 1, "white": 1})):
        for name, count in counts.items():
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                shade = (100 + number if name == "grey" else 250,) * 3
                Image.new("RGB", (32, 32), shade).save(tmp_path / split / name / f"{number}.png")
    return str(tmp_path)


def test_the_metric_follows_the_sizes_of_the_classes(unbalanced):
    plain = tiny_recipe()
    assert default_metric(plain, np.array([0] * 30 + [1] * 10)) == "macro_recall"
    assert default_metric(plain, np.array([0] * 29 + [1] * 10)) == "top1"
    assert default_metric(plain, np.array([0, 2, 2])) == "top1"  # class 1 has no images
    for option in ("class_weights", "balanced_sampling"):
        assert default_metric(replace(plain, **{option: True}), np.array([0, 1])) == "macro_recall"
    assert resolved(tiny_recipe(data=unbalanced, metric="auto"))[0].metric == "macro_recall"
    assert resolved(tiny_recipe(data=photos(), metric="auto"))[0].metric == "top1"


def test_balanced_sampling_shows_both_classes_equally_often(unbalanced):
    for balanced, white in ((False, 3), (True, 6)):
        recipe = tiny_recipe(data=unbalanced, balanced_sampling=balanced, batch_size=4, accumulate=1)
        loader = ClassifyData.open(recipe).train_loader(recipe, workers=0)
        labels = [label for batch in loader for label in batch["label"].tolist()]
        assert len(labels) == 12 and abs(sum(labels) - white) <= (0 if balanced else 1)


def test_streamed_shards_cannot_be_balanced():
    recipe, data = resolved(tiny_recipe())
    with pytest.raises(RMTError, match="--balanced-sampling .* --stream no"):
        resolve(replace(recipe, balanced_sampling=True), replace(data, stream="yes"))


def test_the_baseline_of_the_macro_recall_is_one_class_of_those_that_occur():
    assert MajorityBaseline.of(np.array([0, 0, 0, 1]), 3, by_recall=True).score == 50
