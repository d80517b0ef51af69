"""A sheet of pictures with their labels drawn: a class, boxes and masks, or a map of classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from rmt.check.opened import OpenedData, TaskName
from rmt.check.scan import chosen
from rmt.data.images import BadImage
from rmt.data.split_names import Split
from rmt.inference.drawing.boxes import draw_boxes, labelled_boxes
from rmt.inference.drawing.fonts import fitted, load_font
from rmt.inference.drawing.masks import draw_segmentation
from rmt.inference.drawing.palette import palette

COLUMNS, ROWS = 4, 3
_CELL = 360  # width of a picture on the sheet, and its largest height
_CAPTION, _GAP, _TEXT = 44, 12, 14
_INK, _MUTED, _PAPER = (31, 41, 51), (123, 135, 148), (255, 255, 255)
_MOST_ENLARGED = 6
_MOST_CLASSES = 40  # in the legend


def draw_sheet(opened: OpenedData) -> Image.Image | None:
    """Up to twelve pictures, two thirds of them for training; None if none can be read."""
    cells = [cell for split, count in _shares(opened).items() for cell in _cells(opened, split, count)]
    if not cells:
        return None
    columns = min(COLUMNS, len(cells))
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    width = columns * _CELL + (columns + 1) * _GAP
    legend = _legend(opened, width)
    page = Image.new("RGB", (width, sum(heights) + (len(rows) + 1) * _GAP + legend.height), _PAPER)
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            page.paste(cell, (_GAP + column * (_CELL + _GAP), top))
        top += height + _GAP
    page.paste(legend, (0, top))
    return page


def _shares(opened: OpenedData) -> dict[Split, int]:
    """How many pictures of each split."""
    total, others = COLUMNS * ROWS, [split for split in opened.splits if split != "train"]
    if "train" not in opened.splits:
        return {split: total // len(others) for split in others}
    each = COLUMNS // len(others) if others else 0
    return {"train": total - each * len(others), **dict.fromkeys(others, each)}


def _cells(opened: OpenedData, split: Split, count: int) -> list[Image.Image]:
    images = opened.splits[split]
    cells: list[Image.Image] = []
    for index in _candidates(opened.task, images, count):
        try:
            picture, label = _draw(opened.task, images, index)
        except BadImage:
            continue
        cells.append(_cell(picture, label, f"{split}: {Path(images.name(index)).name}"))
        if len(cells) == count:
            break
    return cells


def _candidates(task: TaskName, images: Any, count: int) -> list[int]:
    """Images to show, more than needed since some cannot be read: with objects, and of classes as varied as can be."""
    candidates = chosen(images, 50 * count)
    if task == "detect":
        full = [index for index in candidates.tolist() if len(images.objects_of(index))]
        candidates = np.array(full or candidates.tolist(), dtype=np.int64)
    if task == "classify":  # the first of each class, then the second of each
        labels = images.labels[candidates]
        turn = np.empty(len(labels), dtype=np.int64)
        for label in np.unique(labels):
            turn[labels == label] = np.arange((labels == label).sum())
        return candidates[np.lexsort((labels, turn))].tolist()
    spread = np.unique(np.linspace(0, len(candidates) - 1, min(count, len(candidates))).astype(int))
    rest = np.setdiff1d(np.arange(len(candidates)), spread)
    return candidates[np.concatenate([spread, rest])].tolist()


def _draw(task: TaskName, images: Any, index: int) -> tuple[Image.Image, str]:
    """The picture with its labels, and what the caption says of them. Raises `BadImage`."""
    if task == "classify":
        return images.load(index), images.classes[images.labels[index]]
    if task == "segment":
        pair = images.load(index)
        present = [name for label, name in enumerate(images.classes.names) if (pair.mask == label).any()]
        return draw_segmentation(pair.image, pair.mask, images.classes.names), ", ".join(present)
    photo = images.load(index)
    objects = images.objects(index)
    masks = None
    if images.with_masks:
        masks = [images.table.segmentation(number) for number in images.objects_of(index)]
    drawn = labelled_boxes(objects.boxes, objects.labels, masks, images.classes)
    caption = "1 object" if len(drawn) == 1 else f"{len(drawn)} objects"
    return draw_boxes(photo, drawn, min_long_side=2 * _CELL), caption


def _cell(picture: Image.Image, label: str, name: str) -> Image.Image:
    """A picture on white, with a caption of two lines below."""
    factor = min(_CELL / picture.width, _CELL / picture.height, _MOST_ENLARGED)
    size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
    small = max(picture.size) < _CELL / 2
    resized = picture.resize(size, Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)
    cell = Image.new("RGB", (_CELL, resized.height + _CAPTION), _PAPER)
    cell.paste(resized, ((_CELL - resized.width) // 2, 0))
    draw, font = ImageDraw.Draw(cell), load_font(_TEXT)
    draw.text((2, resized.height + 4), fitted(label, font, _CELL - 4), fill=_INK, font=font)
    draw.text((2, resized.height + 23), fitted(name, font, _CELL - 4), fill=_MUTED, font=font)
    return cell


def _legend(opened: OpenedData, width: int) -> Image.Image:
    """The classes of a segmentation set with their colours; nothing for other tasks, whose pictures name them."""
    if opened.task != "segment":
        return Image.new("RGB", (width, 0), _PAPER)
    names: Sequence[str] = next(iter(opened.splits.values())).classes.names
    colours = [tuple(colour) for colour in palette(len(names)).tolist()][:_MOST_CLASSES]
    font, cell, line = load_font(_TEXT), 180, 26
    columns = max(1, (width - 2 * _GAP) // cell)
    legend = Image.new("RGB", (width, -(-len(colours) // columns) * line + _GAP), _PAPER)
    draw = ImageDraw.Draw(legend)
    for place, (name, colour) in enumerate(zip(names, colours, strict=False)):
        left, top = _GAP + place % columns * cell, place // columns * line
        draw.rounded_rectangle((left, top + 4, left + 22, top + 20), radius=4, fill=colour)
        draw.text((left + 30, top + 3), fitted(name, font, cell - 36), fill=_INK, font=font)
    return legend
