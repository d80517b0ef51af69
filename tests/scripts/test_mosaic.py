"""The samples that `benchmarks/mosaic.py` cuts from four photos."""

import numpy as np
import pytest
import torch
from helpers.coco_sets import make_coco, open_coco
from helpers.scripts_under_test import script

from rmt.data.detection.coco import find_split
from rmt.data.detection.transforms import DetectionTrainTransform

MOSAIC = script("mosaic", "benchmarks")


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_a_mosaic_has_the_size_of_a_photo_and_boxes_inside_it(probability, monkeypatch, tmp_path):
    def seen(self, image, index):
        return image, self.images.objects(index)

    monkeypatch.setattr(DetectionTrainTransform, "__call__", seen)
    MOSAIC.use_mosaic(probability)
    images = open_coco(*find_split(make_coco(tmp_path), "train"), with_masks=False)
    transform = DetectionTrainTransform(images, None)
    torch.manual_seed(0)
    changed = []
    for index in range(len(images)):
        image, found = transform(photo := images.load(index), index)
        assert image.size == photo.size and len(found.boxes) == len(found.labels) and transform.images is images
        assert found.boxes.dtype == np.float32 and (found.boxes >= 0).all()
        assert (found.boxes[:, 2:] <= photo.size).all() and (found.boxes[:, 2:] > found.boxes[:, :2]).all()
        changed.append(image.tobytes() != photo.tobytes())
    assert all(changed) if probability else not any(changed)
