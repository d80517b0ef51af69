"""A photograph with its classes laid over it in colour, and a legend; and the map of indices."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from rmt.inference.colours import palette

_STRENGTH = 0.58  # of the colour over the photograph
_SMALL = 480  # pictures with a shorter side are enlarged for looking at
_INK, _MUTED, _PAPER = (31, 41, 51), (123, 135, 148), (255, 255, 255)
_LEAST_SHARE = 0.001  # of the pixels, for a line in the legend
PLAIN = ("background",)
"""Classes that are shown as the photograph itself."""


def overlay(photo: Image.Image, labels: np.ndarray, classes: tuple[str, ...]) -> Image.Image:
    """The photograph in the colours of its classes, their borders in white; small ones enlarged.

    photo: RGB; labels: uint8 (height, width), indices into `classes`; 255 is left as it is.
    """
    factor = max(1, -(-_SMALL // min(photo.size)))
    size = (photo.width * factor, photo.height * factor)
    shown = photo.resize(size, Image.Resampling.BICUBIC) if factor > 1 else photo
    grown = labels.repeat(factor, 0).repeat(factor, 1)
    plain = [place for place, name in enumerate(classes) if name in PLAIN]
    strength = np.full(256, round(255 * _STRENGTH), dtype=np.uint8)
    strength[[*plain, 255]] = 0
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(classes)] = palette(len(classes))
    coloured = Image.composite(Image.fromarray(table[grown]), shown, Image.fromarray(strength[grown]))
    coloured.paste((255, 255, 255), mask=_borders(grown, max(1, round(min(size) / 400))))
    return coloured


def _borders(labels: np.ndarray, width: int) -> Image.Image:
    """Where a pixel's class is not that of its right or lower neighbour, about `width` pixels wide; mode L."""
    edges = np.zeros(labels.shape, dtype=np.uint8)
    edges[:, :-1][labels[:, 1:] != labels[:, :-1]] = 230
    edges[:-1][labels[1:] != labels[:-1]] = 230
    lines = Image.fromarray(edges)
    return lines.filter(ImageFilter.MaxFilter(2 * (width // 2) + 1)) if width > 1 else lines


def with_legend(picture: Image.Image, labels: np.ndarray, classes: tuple[str, ...]) -> Image.Image:
    """The picture on white, below it the classes it shows, the largest first, with their share of the pixels."""
    shares = class_shares(labels, classes)
    entries = [(name, share) for name, share in shares.items() if share >= _LEAST_SHARE]
    size = max(14, round(picture.width / 42))
    font = ImageFont.load_default(size)
    texts = [(name, f"{100 * share:.1f} %") for name, share in entries]
    widest = max((font.getlength(f"{name}  {share}") for name, share in texts), default=0)
    cell = round(2.2 * size + widest + 1.2 * size)
    columns = max(1, (picture.width - size) // cell)
    rows = -(-len(texts) // columns)
    line = round(1.7 * size)
    page = Image.new("RGB", (picture.width, picture.height + rows * line + size), _PAPER)
    page.paste(picture, (0, 0))
    draw = ImageDraw.Draw(page)
    colours = dict(zip(classes, palette(len(classes)).tolist(), strict=True))
    for place, (name, share) in enumerate(texts):
        left = size // 2 + place % columns * cell
        middle = picture.height + size // 2 + place // columns * line + line // 2
        box = (left, middle - size // 2, left + round(1.4 * size), middle + size // 2)
        swatch = _PAPER if name in PLAIN else tuple(colours[name])
        draw.rounded_rectangle(box, radius=size // 5, fill=swatch, outline=_MUTED if name in PLAIN else None)
        draw.text((left + 1.9 * size, middle), name, fill=_INK, font=font, anchor="lm")
        draw.text((left + 1.9 * size + font.getlength(f"{name}  "), middle), share, fill=_MUTED, font=font, anchor="lm")
    return page


def class_shares(labels: np.ndarray, classes: tuple[str, ...]) -> dict[str, float]:
    """Class name to its share of the pixels, the largest first, absent ones left out."""
    counts = np.bincount(labels.ravel(), minlength=256)[: len(classes)]
    order = np.argsort(-counts, kind="stable")
    return {classes[k]: float(counts[k] / labels.size) for k in order if counts[k]}


def pictures(photo: Image.Image, labels: np.ndarray, classes: tuple[str, ...]) -> dict[str, Image.Image]:
    """`overlay`, with a legend, and `classes`, a palette picture whose values are the class indices."""
    index = Image.fromarray(labels, "P")
    index.putpalette(palette(len(classes)).tobytes())
    return {"overlay": with_legend(overlay(photo, labels, classes), labels, classes), "classes": index}
