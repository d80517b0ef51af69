"""Class maps of segmentation drawn over a photograph, with a legend, and as a palette picture."""

import numpy as np
from PIL import Image, ImageDraw

from rmt.inference.drawing.fonts import fitted, load_font
from rmt.inference.drawing.palette import palette

_OPACITY = 0.58
_MIN_SHORT_SIDE = 480  # smaller pictures are enlarged by a whole factor,
_MAX_LONG_SIDE = 4096  # but not beyond this: a line of pixels would fill the memory
_INK, _MUTED, _PAPER = (31, 41, 51), (123, 135, 148), (255, 255, 255)
_NAME_WIDTH = 0.62  # most of the legend's width that the name of a class takes
_MIN_SHARE = 0.001  # of the pixels, for an entry in the legend
UNCOLOURED = ("background",)
"""Classes whose pixels show the photograph itself."""


def draw_segmentation(photo: Image.Image, labels: np.ndarray, classes: tuple[str, ...]) -> Image.Image:
    """Returns the photograph in the colours of its classes, with white borders; small ones enlarged.

    Args:
        photo: an RGB image.
        labels: uint8 (height, width), indices into `classes`; pixels of 255 are not coloured.
        classes: their names.
    """
    factor = max(1, min(-(-_MIN_SHORT_SIDE // min(photo.size)), _MAX_LONG_SIDE // max(photo.size)))
    size = (photo.width * factor, photo.height * factor)
    enlarged = photo.resize(size, Image.Resampling.BICUBIC) if factor > 1 else photo
    labels = labels.repeat(factor, 0).repeat(factor, 1)
    opacity = np.full(256, round(255 * _OPACITY), dtype=np.uint8)
    opacity[[*(k for k, name in enumerate(classes) if name in UNCOLOURED), 255]] = 0
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[: len(classes)] = palette(len(classes))
    picture = Image.composite(Image.fromarray(colours[labels]), enlarged, Image.fromarray(opacity[labels]))
    picture.paste((255, 255, 255), mask=_borders(labels, max(1, round(min(size) / 300))))
    return picture


def _borders(labels: np.ndarray, width: int) -> Image.Image:
    """Pixels with a rarer class within about `width` pixels; mode L.

    So a line runs on the side of the more frequent class, and small objects keep all their pixels.
    """
    counts = _counts(labels)
    counts[255] = labels.size + 1  # uncoloured pixels give way to all classes
    rank = np.empty(256, dtype=np.uint8)
    rank[np.argsort(-counts, kind="stable")] = np.arange(256)
    ranks = rank[labels]
    return Image.fromarray((_dilated(ranks, width) > ranks) * np.uint8(230))


def _counts(labels: np.ndarray) -> np.ndarray:
    """Pixels of each value, int64 (256,); `np.bincount` takes eight bytes for each pixel."""
    return np.array(Image.fromarray(labels).histogram())


def _dilated(values: np.ndarray, radius: int) -> np.ndarray:
    """The largest value within `radius` pixels along both axes; time grows with the logarithm of the radius."""
    for _ in (0, 1):
        values = values.T
        for _ in (0, 1):  # towards one end, then the other
            values, reach = values[::-1], 0
            while reach < radius:
                step = min(reach + 1, radius - reach)
                wider = values.copy(order="K")  # the same layout, or the transposed passes are slow
                np.maximum(values[step:], values[:-step], out=wider[step:])
                values, reach = wider, reach + step
    return values


def with_legend(picture: Image.Image, labels: np.ndarray, classes: tuple[str, ...]) -> Image.Image:
    """Returns the picture with its classes listed below, the largest first, with their shares of the pixels."""
    size = max(14, round(picture.width / 42))
    font, room = load_font(size), _NAME_WIDTH * picture.width
    shares = {name: share for name, share in class_shares(labels, classes).items() if share >= _MIN_SHARE}
    entries = [(name, fitted(name, font, room), f"{100 * share:.1f} %") for name, share in shares.items()]
    longest = max((font.getlength(f"{shown}  {share}") for _, shown, share in entries), default=0)
    cell = round(2.2 * size + longest + 1.2 * size)
    columns = max(1, (picture.width - size) // cell)
    rows = -(-len(entries) // columns)
    line = round(1.7 * size)
    page = Image.new("RGB", (picture.width, picture.height + rows * line + size), _PAPER)
    page.paste(picture, (0, 0))
    draw = ImageDraw.Draw(page)
    colours = dict(zip(classes, map(tuple, palette(len(classes)).tolist()), strict=True))
    for place, (name, shown, share) in enumerate(entries):
        left = size // 2 + place % columns * cell
        middle = picture.height + size // 2 + place // columns * line + line // 2
        box = (left, middle - size // 2, left + round(1.4 * size), middle + size // 2)
        fill, outline = (_PAPER, _MUTED) if name in UNCOLOURED else (colours[name], None)
        draw.rounded_rectangle(box, radius=size // 5, fill=fill, outline=outline)
        draw.text((left + 1.9 * size, middle), shown, fill=_INK, font=font, anchor="lm")
        draw.text(
            (left + 1.9 * size + font.getlength(f"{shown}  "), middle), share, fill=_MUTED, font=font, anchor="lm"
        )
    return page


def class_shares(labels: np.ndarray, classes: tuple[str, ...]) -> dict[str, float]:
    """Returns each class's share of the pixels, the largest first; absent classes are left out."""
    counts = _counts(labels)[: len(classes)]
    order = np.argsort(-counts, kind="stable")
    return {classes[k]: float(counts[k] / labels.size) for k in order if counts[k]}


def segmentation_pictures(photo: Image.Image, labels: np.ndarray, classes: tuple[str, ...]) -> dict[str, Image.Image]:
    """Returns `overlay`, the drawing with a legend, and `classes`, a palette picture of the class indices."""
    indices = Image.fromarray(labels, "P")
    indices.putpalette(palette(len(classes)).tobytes())
    return {"overlay": with_legend(draw_segmentation(photo, labels, classes), labels, classes), "classes": indices}
