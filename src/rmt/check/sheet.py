"""A sheet of pictures with their labels drawn: a class, boxes and masks, or a map of classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rmt.check.opened import OpenedData, TaskName
from rmt.check.scan import chosen
from rmt.data.images import BadImage
from rmt.data.split_names import Split
from rmt.inference.drawing.boxes import draw_boxes, labelled_boxes
from rmt.inference.drawing.masks import draw_segmentation
from rmt.inference.drawing.sheet import CELL, COLUMNS, draw_cell, lay_out
from rmt.terminal import plural

ROWS = 3


def draw_sheet(opened: OpenedData) -> Image.Image | None:
    """Up to twelve pictures, two thirds of them for training; None if none can be read."""
    cells = [cell for split, count in _shares(opened).items() for cell in _cells(opened, split, count)]
    if not cells:
        return None
    return lay_out(cells, _legend_classes(opened))


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
        cells.append(draw_cell(picture, label, f"{split}: {Path(images.name(index)).name}"))
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
    caption = plural(len(drawn), "object")
    return draw_boxes(photo, drawn, min_long_side=2 * CELL), caption


def _legend_classes(opened: OpenedData) -> Sequence[str]:
    """The classes of a segmentation set; none for other tasks, whose pictures name them."""
    return next(iter(opened.splits.values())).classes.names if opened.task == "segment" else ()
