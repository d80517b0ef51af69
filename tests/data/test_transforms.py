"""Training and evaluation transforms: timm's result, and every argument takes effect."""

import random

import numpy as np
import pytest
import timm.data
import torch
from helpers.image_sets import picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rmt.data.randomness import seed_sample, seed_words
from rmt.data.transforms import MAX_ASPECT, LimitAspect, eval_transform, train_transform
from rmt.errors import RMTError

STILL = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "hflip": 0.0}  # nothing random left


def drawn(transform, image: Image.Image, draws: int = 8) -> torch.Tensor:
    """The image transformed with each of a few seeds, (draws, 3, H, W)."""
    made = []
    for i in range(draws):
        seed_sample(seed_words(9, i))
        made.append(transform(image))
    return torch.stack(made)


@pytest.mark.parametrize("size", [32, (48, 24)])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_evaluation_is_timms_to_the_bit(size, crop_pct: float, interpolation: str):
    options = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "interpolation": interpolation, "crop_pct": crop_pct}
    theirs = timm.data.create_transform(size, is_training=False, **options)
    ours = eval_transform(size, **options)
    for seed, shape in enumerate([(50, 40), (20, 90), (7, 5), (1, 1)]):
        image = picture(seed, shape)
        assert torch.equal(ours(image), theirs(image))
    assert ours.size == (size if isinstance(size, tuple) else (size, size))


def test_training_is_timms_to_the_bit():
    theirs = timm.data.create_transform(
        32, is_training=True, auto_augment="rand-m5-mstd0.5-inc1", interpolation="random", re_prob=0.5, re_mode="pixel"
    )
    ours = train_transform(32, auto_augment="rand-m5-mstd0.5-inc1", interpolation="random", erase_prob=0.5)
    image = picture(0, (60, 50))
    assert torch.equal(drawn(ours, image), drawn(theirs, image))


def test_preprocessing_of_a_model_file_is_understood():
    from_json = {"size": [24, 32], "mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic", "crop_pct": 0.9}
    assert eval_transform(**from_json)(picture(0)).shape == (3, 24, 32)


@pytest.mark.parametrize(
    "change",
    [
        {"scale": (0.1, 0.3)},
        {"ratio": (0.4, 0.6)},
        {"hflip": 1.0},
        {"vflip": 1.0},
        {"color_jitter": 0.5},
        {"auto_augment": "rand-m9-mstd0.5-inc1"},
        {"erase_prob": 1.0},
        {"interpolation": "bilinear"},
        {"interpolation": "random"},
        {"mean": (0.1, 0.1, 0.1)},
        {"std": (0.1, 0.1, 0.1)},
        {"pad_to": 60},
        {"crop_padding": 3},
    ],
)
def test_every_training_argument_takes_effect(change: dict):
    image = picture(0, (40, 40))
    plain = drawn(train_transform(32, **STILL), image)
    assert torch.equal(plain, plain[:1].expand_as(plain))
    assert not torch.equal(drawn(train_transform(32, **STILL | change), image), plain)


def test_randaugment_fills_with_the_mean():
    white = Image.new("RGB", (40, 40), "white")
    for mean, colour in (((0.0, 0.0, 0.0), 0.0), ((0.2, 0.2, 0.2), 51 / 255)):
        options = {"auto_augment": "rand-m10-n1-p1", "mean": mean, "std": (1.0, 1.0, 1.0)}
        made = drawn(train_transform(32, **STILL | options), white, draws=40) + mean[0]
        corners = made[:, 0, 0, 0][(made[:, 0].amin((1, 2)) < made[:, 0].amax((1, 2)))]  # of those that moved
        assert torch.isclose(corners.min(), torch.tensor(colour), atol=1e-4)


def test_erase_mode_takes_effect():
    flat = Image.new("RGB", (32, 32))
    const, pixel = (
        drawn(train_transform(32, **STILL, erase_prob=1.0, erase_mode=mode), flat) for mode in ("const", "pixel")
    )
    assert len(const.unique()) == 4  # black in three channels, and 0
    assert len(pixel.unique()) > 1000


def test_color_jitter_takes_effect_without_randaugment_only():
    image = picture(0, (40, 40))
    both = train_transform(32, **STILL, auto_augment="rand-m9-mstd0.5-inc1", color_jitter=0.5)
    alone = train_transform(32, **STILL, auto_augment="rand-m9-mstd0.5-inc1")
    assert torch.equal(drawn(both, image), drawn(alone, image))


def test_small_images_are_padded_not_enlarged():
    image = Image.new("RGB", (28, 28), (255, 255, 255))
    plain = {"mean": (0, 0, 0), "std": (1, 1, 1)}
    centred = torch.zeros(3, 32, 32)
    centred[:, 2:30, 2:30] = 1
    assert torch.equal(eval_transform(32, **plain, crop_pct=1.0, pad_to=32)(image), centred)
    moved = drawn(train_transform(32, **plain, **STILL, pad_to=32), image, draws=60)
    assert (moved.sum((1, 2, 3)) == 3 * 28 * 28).all()
    places = {(int(one[0].any(1).nonzero()[0]), int(one[0].any(0).nonzero()[0])) for one in moved}
    assert {top for top, _ in places} == {left for _, left in places} == set(range(5))


@pytest.mark.parametrize(("width", "height", "scaled"), [(32, 32, (32, 32)), (64, 96, (32, 48)), (24, 16, (48, 32))])
def test_padded_random_crops_are_the_regions_of_the_padded_image(width: int, height: int, scaled: tuple[int, int]):
    image, padding = picture(0, (width, height)), 2
    plain = {"mean": (0, 0, 0), "std": (1 / 255, 1 / 255, 1 / 255), "hflip": 0.0}
    covering = image if image.size == scaled else image.resize(scaled, Image.Resampling.BICUBIC)
    padded = np.pad(np.asarray(covering), ((padding, padding), (padding, padding), (0, 0))).transpose(2, 0, 1)
    regions = {
        padded[:, top : top + 32, left : left + 32].tobytes(): (top, left)
        for top in range(padded.shape[1] - 31)
        for left in range(padded.shape[2] - 31)
    }
    made = drawn(train_transform(32, crop_padding=padding, **plain), image, draws=400).round().to(torch.uint8).numpy()
    seen = {regions[one.tobytes()] for one in made}  # KeyError: not a region of the padded image
    assert {top for top, _ in seen} == {top for top, _ in regions.values()}
    assert {left for _, left in seen} == {left for _, left in regions.values()}


def test_a_strip_does_not_explode(monkeypatch: pytest.MonkeyPatch):
    strip = Image.new("RGB", (1, 100_000))
    assert LimitAspect()(strip).size == (1, MAX_ASPECT)
    assert LimitAspect()(strip.transpose(Image.Transpose.ROTATE_90)).size == (MAX_ASPECT, 1)
    made = []
    resize, new = Image.Image.resize, Image.new
    monkeypatch.setattr(Image.Image, "resize", lambda self, size, *rest: made.append(size) or resize(self, size, *rest))
    monkeypatch.setattr(Image, "new", lambda mode, size, *rest: made.append(size) or new(mode, size, *rest))
    for transform in (
        eval_transform(64, pad_to=32),
        train_transform(64, pad_to=32),
        train_transform(64, crop_padding=4),
    ):
        assert transform(strip).shape == (3, 64, 64)
    assert made
    assert max(width * height for width, height in made) < 1_000_000


def test_the_middle_of_a_strip_is_kept():
    ramp = Image.fromarray(np.arange(100, dtype=np.uint8)[None])
    assert np.asarray(LimitAspect()(ramp))[0].tolist() == list(range(34, 34 + MAX_ASPECT))


def test_posterize_to_no_bits_is_black_as_it_always_was():
    """Pillow 13 refuses what RandAugment asks for; see `_mend_posterize`."""
    transform = train_transform(32, **STILL, auto_augment="rand-m10-n1-p1-inc1", mean=(0, 0, 0), std=(1, 1, 1))
    made = drawn(transform, picture(0, (40, 40)), draws=60)
    assert (made.flatten(1).amax(1) == 0).any()
    for policy in ("v0", "original", "3a", "augmix-m5", "rand-m10-n2-inc0"):
        drawn(train_transform(32, auto_augment=policy), picture(0), draws=20)


def test_unknown_augmentation_is_one_line():
    for wrong in ("rand-x9", "nonsense", "rand-mhigh"):
        with pytest.raises(RMTError, match=r"is unknown; an example is rand-m9-mstd0.5-inc1"):
            train_transform(32, auto_augment=wrong)


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([32, 57]), st.sampled_from([0, 32]))
@settings(max_examples=25, deadline=None)
def test_any_size_goes_through(width: int, height: int, size: int, pad_to: int):
    image = Image.new("RGB", (width, height))
    random.seed(width)
    for transform in (eval_transform(size, pad_to=pad_to), train_transform(size, pad_to=pad_to, erase_prob=0.5)):
        made = transform(image)
        assert (made.shape, made.dtype) == ((3, size, size), torch.float32)
