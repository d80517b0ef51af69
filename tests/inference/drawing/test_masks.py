"""Maps of classes drawn over photographs."""

import numpy as np
import pytest
from PIL import Image

from rmt.inference.drawing.masks import _dilated, draw_segmentation
from rmt.inference.drawing.palette import palette

WHITE = (255, 255, 255)


@pytest.mark.parametrize("radius", [1, 2, 3, 5, 40])
def test_dilation_is_the_largest_of_the_neighbourhood(radius):
    values = np.random.default_rng(0).integers(0, 200, (17, 23), dtype=np.uint8)
    padded = np.pad(values, radius)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * radius + 1, 2 * radius + 1))
    np.testing.assert_array_equal(_dilated(values, radius), windows.max((2, 3)))


def picture(side: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A square object of `size` pixels in the middle of `side` pixels, drawn, and where it lies."""
    labels = np.zeros((side, side), dtype=np.uint8)
    start = (side - size) // 2
    labels[start : start + size, start : start + size] = 1
    drawn = draw_segmentation(Image.new("RGB", (side, side), (90, 90, 90)), labels, ("road", "sign"))
    return np.asarray(drawn), labels == 1


def test_a_small_object_keeps_its_colour():
    """The line around it lies outside."""
    drawn, inside = picture(1200, 2)
    ours = drawn[inside].astype(int)
    assert (ours == ours[0]).all() and np.abs(ours[0] - palette(2)[1]).max() < 80
    assert (drawn[np.pad(inside, 1)[:-2, 1:-1] & ~inside] > 200).all()


@pytest.mark.parametrize(("side", "width"), [(600, 2), (1800, 6)])
def test_lines_are_as_wide_as_the_picture_is_large(side, width):
    drawn, _ = picture(side, side // 3)
    row = drawn[side // 2].min(-1)
    assert (row > 200).sum() == 2 * width


def test_ignored_pixels_show_the_photograph():
    labels = np.full((600, 600), 255, dtype=np.uint8)
    labels[:, 300:] = 0
    drawn = np.asarray(draw_segmentation(Image.new("RGB", (600, 600), (90, 90, 90)), labels, ("road",)))
    assert (drawn[:, :290] == 90).all() and (drawn[300, 298] > 200).all() and (drawn[300, 300] < 200).any()


@pytest.mark.parametrize(
    ("size", "expected"), [((1, 3000), (1, 3000)), ((4097, 1), (4097, 1)), ((10, 100), (400, 4000))]
)
def test_a_line_of_pixels_is_not_enlarged_beyond_memory(size, expected):
    labels = np.zeros(size[::-1], np.uint8)
    assert draw_segmentation(Image.new("RGB", size), labels, ("road",)).size == expected
