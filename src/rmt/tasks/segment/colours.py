"""Colours for any number of classes, far apart and the same every time, and what is drawn with them."""

import colorsys

import numpy as np

_GOLDEN = 0.6180339887498949  # steps of this part of the circle never bunch up


def palette(count: int) -> np.ndarray:
    """uint8 (count, 3): hues by golden steps, brightness and saturation in turns; the first `count` of a fixed row."""
    colours = []
    for number in range(count):
        hue = (0.58 + number * _GOLDEN) % 1
        saturation = (0.72, 0.55, 0.85)[number % 3]
        value = (0.93, 0.78, 1.0, 0.66)[number % 4]
        colours.append(colorsys.hsv_to_rgb(hue, saturation, value))
    return np.rint(255 * np.array(colours).reshape(count, 3)).astype(np.uint8)
