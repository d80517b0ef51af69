"""Pictures with boxes and masks: a line around each object, its name where there is room."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rmt.data.detection.coco import CocoSet
from rmt.data.detection.rle import decode, encode
from rmt.inference.colours import bright

if TYPE_CHECKING:
    from rmt.tasks.detect.metrics import Found

SURE = 0.5
"""Objects that were found with less of a score are not drawn."""
_FILL = 0.42  # how much of a mask's colour covers the picture
_SMALLEST = 900  # pictures are enlarged to this long side, or text and lines would be coarse


@dataclass(frozen=True)
class Drawn:
    """One object to draw: box in pixels of the picture, number of its colour, text, and its mask as RLE or polygons."""

    box: tuple[float, float, float, float]
    hue: int
    text: str = ""
    mask: Any = None


def truth(images: CocoSet, place: int) -> list[Drawn]:
    """What is to be found in an image, largest last, so that small objects stay visible."""
    objects = images.objects(place)
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    runs = None if objects.masks is None else encode(objects.masks.astype(bool))
    order = np.argsort(sides.prod(1), kind="stable")
    return _drawn(objects.boxes, objects.labels, runs, order, images.classes, [""] * len(order))


def found(answer: "Found", classes: tuple[str, ...], threshold: float = SURE) -> list[Drawn]:
    """What was found with a score of `threshold` or more, best first."""
    order = np.flatnonzero(answer.scores >= threshold)
    scores = [f"{score:.2f}" for score in answer.scores]
    return _drawn(answer.boxes, answer.labels, answer.masks, order, classes, scores)


def _drawn(
    boxes: np.ndarray,
    labels: np.ndarray,
    masks: list[dict[str, Any]] | None,
    order: np.ndarray,
    classes: tuple[str, ...],
    scores: list[str],
) -> list[Drawn]:
    """Objects with a colour and a name per class; where there is one class, with a colour each and no name."""
    several = len(classes) > 1
    drawn = []
    for turn, i in enumerate(order.tolist()):
        words = [classes[labels[i]]] * several + [scores[i]] * bool(scores[i])
        hue = int(labels[i]) if several else turn
        drawn.append(Drawn(tuple(boxes[i].tolist()), hue, " ".join(words), None if masks is None else masks[i]))
    return drawn


def draw(image: Image.Image, objects: Sequence[Drawn], smallest: int = _SMALLEST) -> Image.Image:
    """The picture with its objects, the first ones on top; at least `smallest` pixels on its long side."""
    scale = max(1.0, smallest / max(image.size))
    size = round(image.width * scale), round(image.height * scale)
    picture = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    line = max(2, round(max(size) / 400))
    for item in reversed(objects):
        if item.mask is not None:
            picture = _with_mask(picture, decode(item.mask, image.height, image.width), bright(item.hue), line)
    pen = ImageDraw.Draw(picture)
    boxes = [tuple(value * scale for value in item.box) for item in objects]
    for item, box in zip(reversed(objects), reversed(boxes), strict=True):
        _frame(pen, box, bright(item.hue), line)
    font = ImageFont.load_default(max(13.0, max(size) / 52))
    taken: list[tuple[float, float, float, float]] = []
    for item, box in zip(objects, boxes, strict=True):
        _chip(pen, box, item.text, bright(item.hue), font, size, taken)
    return picture


def side_by_side(pictures: Sequence[Image.Image], gap: int = 12) -> Image.Image:
    """Pictures of one height in a row on white."""
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    row = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white")
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width + gap
    return row


def _with_mask(picture: Image.Image, mask: np.ndarray, paint: tuple[int, int, int], line: int) -> Image.Image:
    """The mask as a veil, with a bright line along its border."""
    soft = Image.fromarray(mask * np.uint8(255)).resize(picture.size, Image.Resampling.BILINEAR)
    inside = np.asarray(soft) > 127
    veil = Image.fromarray(inside * np.uint8(round(255 * _FILL)))
    edge = Image.fromarray((inside & ~_eroded(inside, line)) * np.uint8(255))
    flat = Image.new("RGB", picture.size, paint)
    return Image.composite(flat, Image.composite(flat, picture, veil), edge)


def _eroded(mask: np.ndarray, by: int) -> np.ndarray:
    """(h, w) bool without its outermost `by` pixels."""
    for axis in (0, 1):
        padded = np.pad(mask, [(by, by) if a == axis else (0, 0) for a in (0, 1)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * by + 1, axis=axis)
        mask = np.asarray(windows.all(axis=-1))
    return mask


def _frame(pen: ImageDraw.ImageDraw, box: Sequence[float], paint: tuple[int, int, int], line: int) -> None:
    """A coloured rectangle on a dark one, seen on any ground."""
    left, top, right, bottom = box
    pen.rounded_rectangle((left - 1, top - 1, right + 1, bottom + 1), radius=2 * line, outline=(0, 0, 0), width=1)
    pen.rounded_rectangle((left, top, right, bottom), radius=2 * line, outline=paint, width=line)


def _chip(
    pen: ImageDraw.ImageDraw,
    box: Sequence[float],
    text: str,
    paint: tuple[int, int, int],
    font: Any,
    size: tuple[int, int],
    taken: list[tuple[float, float, float, float]],
) -> None:
    """The text on a ground of its class's colour, above the box or in it; left out where it would hide another one."""
    if not text:
        return
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    wide, high = right - left + 10, bottom - top + 8
    if wide > 1.6 * (box[2] - box[0]):  # longer than a small object: it would stand on the neighbours
        return
    x = min(max(box[0], 0), max(size[0] - wide, 0))
    for y in (box[1] - high - 1, box[1] + 2, box[3] - high - 2):
        place = (x, y, x + wide, y + high)
        if y < 0 or y + high > size[1] or any(_meet(place, other) for other in taken):
            continue
        taken.append(place)
        pen.rounded_rectangle(place, radius=4, fill=paint)
        ink = (0, 0, 0) if 0.3 * paint[0] + 0.59 * paint[1] + 0.11 * paint[2] > 140 else (255, 255, 255)
        pen.text((x + 5 - left, y + 4 - top), text, font=font, fill=ink)
        return


def _meet(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
