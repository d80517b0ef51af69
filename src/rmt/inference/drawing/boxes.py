"""Boxes, masks and labels of objects drawn on a photograph."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from rmt.data.detection.rle import decode
from rmt.inference.drawing.fonts import load_font
from rmt.inference.drawing.palette import line_colour
from rmt.terminal import printable, short

MIN_SCORE = 0.5
"""The lowest score of objects that are drawn, unless another is asked for."""
_MOST_LETTERS = 32  # of the name of a class
_MASK_OPACITY = 0.42
_MIN_LONG_SIDE = 900  # smaller pictures are enlarged, since text and lines would be coarse


@dataclass(frozen=True)
class LabelledBox:
    """One object to draw."""

    box: tuple[float, float, float, float]  # left, top, right, bottom in pixels of the photograph
    colour: int  # number of `line_colour`
    text: str = ""
    mask: Any = None  # COCO's RLE or polygons


def labelled_boxes(
    boxes: np.ndarray,
    labels: np.ndarray,
    masks: Sequence[Any] | None,
    classes: tuple[str, ...],
    scores: np.ndarray | None = None,
    threshold: float = MIN_SCORE,
) -> list[LabelledBox]:
    """Returns the objects to draw, in the given order; with `scores` those that reach `threshold`.

    Of several classes each has a colour and its name is shown; of a single class each object has a colour.
    """
    several = len(classes) > 1
    chosen = range(len(boxes)) if scores is None else np.flatnonzero(scores >= threshold).tolist()
    objects = []
    for place, i in enumerate(chosen):
        words = [short(classes[labels[i]], _MOST_LETTERS)] if several else []
        if scores is not None:
            words.append(f"{scores[i]:.2f}")
        colour = int(labels[i]) if several else place
        mask = None if masks is None else masks[i]
        objects.append(LabelledBox(tuple(boxes[i].tolist()), colour, " ".join(words), mask))
    return objects


def draw_boxes(photo: Image.Image, objects: Sequence[LabelledBox], min_long_side: int = _MIN_LONG_SIDE) -> Image.Image:
    """Returns the photograph with the objects, the first ones on top, enlarged to at least `min_long_side` pixels."""
    scale = max(1.0, min_long_side / max(photo.size))
    size = round(photo.width * scale), round(photo.height * scale)
    picture = photo.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    line = max(2, round(max(size) / 400))
    for item in reversed(objects):
        if item.mask is not None:
            mask = decode(item.mask, photo.height, photo.width)
            picture = _draw_mask(picture, mask, line_colour(item.colour), line)
    draw = ImageDraw.Draw(picture)
    boxes = [tuple(value * scale for value in item.box) for item in objects]
    for item, box in zip(reversed(objects), reversed(boxes), strict=True):
        _draw_box(draw, box, line_colour(item.colour), line)
    font = load_font(max(13.0, max(size) / 52))
    taken: list[tuple[float, float, float, float]] = []
    for item, box in zip(objects, boxes, strict=True):
        if item.text:
            _draw_label(draw, box, item.text, line_colour(item.colour), font, size, taken)
    return picture


def _draw_mask(picture: Image.Image, mask: np.ndarray, colour: tuple[int, int, int], line: int) -> Image.Image:
    """The mask (h, w), resized to the picture, as a transparent area with an opaque line along its border."""
    resized = Image.fromarray(mask * np.uint8(255)).resize(picture.size, Image.Resampling.BILINEAR)
    inside = np.asarray(resized) > 127
    opacity = Image.fromarray(inside * np.uint8(round(255 * _MASK_OPACITY)))
    border = Image.fromarray((inside & ~_eroded(inside, line)) * np.uint8(255))
    flat = Image.new("RGB", picture.size, colour)
    return Image.composite(flat, Image.composite(flat, picture, opacity), border)


def _eroded(mask: np.ndarray, by: int) -> np.ndarray:
    """(h, w) bool without its outermost `by` pixels."""
    for axis in (0, 1):
        padded = np.pad(mask, [(by, by) if a == axis else (0, 0) for a in (0, 1)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * by + 1, axis=axis)
        mask = np.asarray(windows.all(axis=-1))
    return mask


def _draw_box(draw: ImageDraw.ImageDraw, box: Sequence[float], colour: tuple[int, int, int], line: int) -> None:
    """A coloured rectangle inside a black one, to be seen on any background."""
    left, top, right, bottom = box
    draw.rounded_rectangle((left - 1, top - 1, right + 1, bottom + 1), radius=2 * line, outline=(0, 0, 0), width=1)
    draw.rounded_rectangle((left, top, right, bottom), radius=2 * line, outline=colour, width=line)


def _draw_label(
    draw: ImageDraw.ImageDraw,
    box: Sequence[float],
    text: str,
    colour: tuple[int, int, int],
    font: Any,
    size: tuple[int, int],
    taken: list[tuple[float, float, float, float]],
) -> None:
    """The text on a ground of the box's colour, above the box or inside; left out where it would cover a label."""
    text = printable(text)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 10, bottom - top + 8
    if width > 1.6 * (box[2] - box[0]):  # too long for a small object: it would cover the neighbours
        return
    x = min(max(box[0], 0), max(size[0] - width, 0))
    for y in (box[1] - height - 1, box[1] + 2, box[3] - height - 2):
        place = (x, y, x + width, y + height)
        if y < 0 or y + height > size[1] or any(_overlap(place, other) for other in taken):
            continue
        taken.append(place)
        draw.rounded_rectangle(place, radius=4, fill=colour)
        ink = (0, 0, 0) if 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2] > 140 else (255, 255, 255)
        draw.text((x + 5 - left, y + 4 - top), text, font=font, fill=ink)
        return


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
