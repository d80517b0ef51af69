"""Image and map through the whole augmentation: what the image shows is what the map says."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision.transforms import RandomHorizontalFlip

from rmt.data.token_labels.transforms import TokenLabelTransform, label
from rmt.data.transforms import Normalize, train_transform

PLAIN = dict(mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear")


class Maps:
    """The same map for every image."""

    def __init__(self, rows: int = 6, columns: int = 6):
        self.scores = np.full((rows, columns, 1), 8.0, np.float16)
        self.classes = np.arange(rows * columns, dtype=np.int16).reshape(rows, columns, 1)

    def load(self, index, size, name=""):
        return self.scores, self.classes


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
    image, transform = ramp(width, height), TokenLabelTransform(train_transform(64, **PLAIN), Maps())
    flips = 0
    for number in range(30):
        seed(number)
        shown, targets = transform.with_targets(image, 0, "")
        left, top, right, bottom = targets["box"].tolist()
        assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
        flipped = int(targets["map_classes"][0, 0, 0]) > 0
        red, green = shown[0].mean(), shown[1].mean()
        middle = (left + right) / 2
        assert red == pytest.approx(1 - middle if flipped else middle, abs=0.02)
        assert green == pytest.approx((top + bottom) / 2, abs=0.02)
        across = shown[0].mean(0)
        assert flipped == bool(across[-1] < across[0])
        assert abs(float(across[-1] - across[0])) == pytest.approx((right - left) * 63 / 64, abs=0.03)
        assert torch.equal(targets["map_classes"][0, :, 0], torch.arange(6).flip(0) if flipped else torch.arange(6))
        flips += flipped
    assert 5 < flips < 25


def test_the_order_is_flip_randaugment_crop():
    """Drawn by hand from the same seeds, with the steps of the transform itself; bit for bit, and no draw more."""
    options = dict(interpolation="random", auto_augment="rand-m9-mstd0.5-inc1", erase_prob=0.5)
    transform = TokenLabelTransform(train_transform(48, **options), Maps())
    _, _, crop, augment, to_tensor, normalize, erase = train_transform(48, **options).transforms
    resized_crop, flip = crop.transforms
    assert isinstance(resized_crop, RandomResizedCropAndInterpolation) and isinstance(flip, RandomHorizontalFlip)
    assert isinstance(normalize, Normalize)
    image = ramp(120, 90)
    for number in range(20):
        seed(number)
        expected = image
        for step in (flip, augment, resized_crop, to_tensor, normalize, erase):
            expected = step(expected)
        after = random.random(), float(torch.rand(()))
        seed(number)
        shown, _ = transform.with_targets(image, 0, "")
        assert torch.equal(shown, expected)
        assert (random.random(), float(torch.rand(()))) == after
        seed(number)
        assert torch.equal(transform(image), expected)


def test_no_crop_and_no_flip_is_the_whole_image():
    maps = Maps()
    transform = TokenLabelTransform(train_transform(32, scale=(1, 1), ratio=(1, 1), hflip=0.0), maps)
    targets = transform.with_targets(ramp(50, 50), 0, "")[1]
    assert targets["box"].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert torch.equal(targets["map_classes"], torch.from_numpy(maps.classes))


def test_the_transform_that_is_given_stays_as_it_is():
    plain = train_transform(32, auto_augment="rand-m9-n2-p1")
    TokenLabelTransform(plain, Maps())
    seed(0)
    assert plain(ramp(50, 50)).shape == (3, 32, 32)


def test_the_part_of_a_very_long_image_keeps_its_place():
    labelled = label(ramp(2, 4000), *Maps().load(0, ()))
    assert labelled.image.size == (2, 64) and labelled.whole == (2, 4000) and labelled.corner == (0, 1968)


@pytest.mark.parametrize(
    "options",
    [
        dict(pad_to=40),
        dict(crop_padding=4),
        dict(vflip=0.5),
        dict(auto_augment="augmix-m5"),
        dict(color_jitter=0.4, auto_augment=""),
    ],
    ids=str,
)
def test_what_cannot_be_followed_is_refused(options):
    with pytest.raises(ValueError, match="cannot follow"):
        TokenLabelTransform(train_transform(32, **options), Maps())
