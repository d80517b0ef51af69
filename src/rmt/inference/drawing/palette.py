"""Colours for any number of classes or objects: neighbours differ clearly, and class k always gets the same."""

import colorsys

import numpy as np

_GOLDEN = 0.6180339887498949  # multiples of the golden ratio, modulo 1, never cluster


def line_colour(number: int) -> tuple[int, int, int]:
    """RGB colour `number` for lines and labels: saturated, to be seen on any photograph."""
    return _colour(number, saturation=0.72, value=1.0)


def palette(count: int) -> np.ndarray:
    """The first `count` colours for areas, uint8 (count, 3); saturation and brightness alternate."""
    saturations, values = (0.72, 0.55, 0.85), (0.93, 0.78, 1.0, 0.66)
    colours = [_colour(number, saturations[number % 3], values[number % 4]) for number in range(count)]
    return np.array(colours, dtype=np.uint8).reshape(count, 3)


def _colour(number: int, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb((0.58 + number * _GOLDEN) % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)
