"""Crops around a class, vertical flip and rotation of training pairs, and the count of pixels."""

import random

import numpy as np
import pytest
from helpers.segment_data import make_segments, picture
from PIL import Image

from rmt.data.segmentation.class_use import ClassUse
from rmt.data.segmentation.dataset import Pair, open_segmentation
from rmt.data.segmentation.masks import IGNORE
from rmt.data.segmentation.transforms import SegmentationTrainTransform


def transform(**changes) -> SegmentationTrainTransform:
    """No change but those given: images of 64 × 48 pixels are not resized."""
    values = dict(crop=64, long_side=64, short_side=48, ratios=(1.0, 1.0), max_share=1.0, flip=0.0, distortion=0.0)
    return SegmentationTrainTransform(**values | dict(mean=(0, 0, 0), std=(1, 1, 1)) | changes)


def pair(mask: np.ndarray) -> Pair:
    """An image whose red channel is the mask, times 100."""
    pixels = np.zeros((*mask.shape, 3), np.uint8)
    pixels[..., 0] = np.where(mask == IGNORE, 0, mask * 100)
    return Pair(Image.fromarray(pixels), mask)


@pytest.fixture
def rare() -> Pair:
    """Class 0, but for one pixel of class 1 in a corner and one of class 2 in the middle."""
    mask = np.zeros((48, 64), np.uint8)
    mask[0, 63], mask[20, 30] = 1, 2
    return pair(mask)


def test_balanced_crops_hold_every_class_as_often(rare):
    random.seed(0)
    chosen, anywhere = transform(crop=32, balanced=1.0), transform(crop=32)
    crops = [chosen(rare, 0)["mask"].numpy() for _ in range(300)]
    for label in (1, 2):
        share = np.mean([(crop == label).any() for crop in crops])
        assert share > 0.3, f"class {label}"
    assert np.mean([(anywhere(rare, 0)["mask"].numpy() == 1).any() for _ in range(300)]) < 0.03
    assert all(crop.shape == (32, 32) and (crop != IGNORE).all() for crop in crops)  # inside the image


def test_a_mask_without_labels_gives_a_crop():
    nothing = pair(np.full((48, 64), IGNORE, np.uint8))
    assert (transform(crop=32, balanced=1.0)(nothing, 0)["mask"] == IGNORE).all()


def test_vertical_flip_moves_image_and_mask(rare):
    random.seed(0)
    crop = transform(vertical_flip=1.0)(rare, 0)
    mask = crop["mask"].numpy()[:48]
    assert (mask == rare.mask[::-1]).all()
    assert ((crop["image"][0, :48].numpy() * 255).round() == mask * 100.0).all()


def test_rotation_moves_image_and_mask_alike():
    random.seed(1)
    _, mask = picture(0, 48, 64)
    turned = transform(rotation=30.0)(pair(mask), 0)
    labels, red = turned["mask"].numpy()[:48], (turned["image"][0, :48].numpy() * 255).round()
    assert (labels == IGNORE).any() and (labels != mask).any()  # corners from outside the image
    known = labels != IGNORE
    assert np.mean(np.abs(red - labels * 100.0)[known] < 2) > 0.9  # all but the edges, which are interpolated


def test_pixels_are_counted_over_the_masks(tmp_path):
    train = open_segmentation(str(make_segments(tmp_path)))[0]
    masks = [train.load(index).mask for index in range(len(train))]
    assert ClassUse.of(train).pixels.tolist() == [sum(int((mask == k).sum()) for mask in masks) for k in range(3)]
    some = ClassUse.of(train, most=2, search=False).pixels
    assert some.tolist() == [sum(int((masks[i] == k).sum()) for i in (0, len(train) - 1)) for k in range(3)]
