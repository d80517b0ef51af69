"""The view that is reported is the part of the image that is shown."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from rmt.data.token_labels.transforms import transform_with_crop
from rmt.data.transforms import train_transform

PLAIN = dict(mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear")


def seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002 - what timm's augmentations draw from
    torch.manual_seed(number)


def ramp(width: int, height: int) -> Image.Image:
    """Red grows from left to right, green from top to bottom, both from 0 to 255."""
    x = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    y = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return Image.fromarray(np.stack([x, y, 0 * x], axis=2).round().astype(np.uint8))


@pytest.mark.parametrize(("width", "height"), [(300, 200), (150, 300), (64, 4000)])
def test_the_colours_shown_are_those_of_the_box(width, height):
    """Of a colour ramp, the mean red and green that are shown tell where the box was, and their order the flip."""
    image, transform = ramp(width, height), train_transform(64, **PLAIN)
    flips = 0
    for number in range(30):
        seed(number)
        shown, (left, top, right, bottom), flipped = transform_with_crop(transform, image)
        assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
        red, green = shown[0].mean(), shown[1].mean()
        assert red == pytest.approx((left + right) / 2, abs=0.02)
        assert green == pytest.approx((top + bottom) / 2, abs=0.02)
        across = shown[0].mean(0)
        assert flipped == bool(across[-1] < across[0])
        assert abs(float(across[-1] - across[0])) == pytest.approx((right - left) * 63 / 64, abs=0.03)
        flips += flipped
    assert 5 < flips < 25


def test_showing_changes_neither_the_image_nor_later_draws():
    image = ramp(120, 90)
    transform = train_transform(48, interpolation="random", auto_augment="rand-m9-mstd0.5-inc1", erase_prob=0.5)
    for number in range(20):
        seed(number)
        expected, after = transform(image), (random.random(), float(torch.rand(())))
        seed(number)
        shown, *_ = transform_with_crop(transform, image)
        assert torch.equal(shown, expected)
        assert (random.random(), float(torch.rand(()))) == after


def test_no_crop_and_no_flip_is_the_whole_image():
    transform = train_transform(32, scale=(1, 1), ratio=(1, 1), hflip=0.0)
    assert transform_with_crop(transform, ramp(50, 50))[1:] == ((0.0, 0.0, 1.0, 1.0), False)


def test_what_cannot_be_followed_is_refused():
    for transform in (train_transform(32, pad_to=40), train_transform(32, vflip=0.5)):
        with pytest.raises(ValueError, match="cannot follow"):
            transform_with_crop(transform, ramp(50, 50))
