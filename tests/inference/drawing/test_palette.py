"""Colours of classes and objects."""

import colorsys

import numpy as np
import pytest

from rmt.inference.drawing.palette import line_colour, palette


@pytest.mark.parametrize("colours", [[line_colour(n) for n in range(40)], palette(40).tolist()], ids=["lines", "areas"])
def test_neighbours_are_far_apart_in_hue(colours):
    hues = np.array([colorsys.rgb_to_hsv(*(value / 255 for value in colour))[0] for colour in colours])
    steps = np.abs(np.diff(hues))
    assert np.minimum(steps, 1 - steps).min() > 0.35
    assert len(np.unique(np.round(hues, 3))) == 40


def test_a_class_keeps_its_colour_however_many_there_are():
    assert np.array_equal(palette(7), palette(255)[:7])
    assert palette(0).shape == (0, 3)
