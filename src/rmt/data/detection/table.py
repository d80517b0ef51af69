"""Images and objects of a detection set as flat arrays, and the checks of every object.

Skipped, counted and named in `Problems`: boxes without area, boxes outside the image, annotations whose image or
category is not listed; and masks that do not overlap their box or are of another size, whose objects stay, without a
mask. Only named: boxes that reach beyond the image (clipped for training), boxes computed from masks, bad pieces of
masks, categories without an object.
"""

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from rmt.data.detection.rle import good_pieces, is_coordinate, mask_box
from rmt.data.files import valid_name
from rmt.data.sets import preview

NO_AREA = "box of zero or negative size"
NO_NUMBERS = "box that is not four numbers below a billion"
MERGED = "image that is listed under several ids (merged)"
ROOT = "category without an object that heads others or is the background (left out)"
BAD_SIZE = "image whose size cannot be read"
CROWD_TEXT = 'crowd flag that is text, such as "0" (read as a number)'
FROM_MASK = "object whose box is computed from its mask"
BAD_PIECE = "piece of a mask that cannot be read (left out)"
MANY_CROWDS = "file in which most objects are crowd regions (not trained on; if they are objects: --crowd-as-objects)"
OUTSIDE = "box outside its image"
MASK_ELSEWHERE = "mask that misses its box"
BAD_MASK = "mask that cannot be read"
NO_BOX = "object without a box, whose mask cannot be read"
NO_IMAGE = "annotation whose image is not listed"
NO_CATEGORY = "annotation of a category that is not listed"
OVER_EDGE = "box that reaches over the edge (clipped)"
UNUSED = "category that no image has"
DIFFICULT = "object marked difficult (not trained on, not counted in evaluation)"
NO_LABELS = "image without a label file (has no object)"
_NOTES = (
    *(OVER_EDGE, UNUSED, DIFFICULT, NO_LABELS, FROM_MASK, BAD_PIECE),
    *(MANY_CROWDS, MERGED, ROOT, CROWD_TEXT),
)
"""Kinds of which nothing is skipped, or that say themselves what is."""
_ROUNDING = 1.0
"""Boxes may reach this many pixels beyond the image without being reported: COCO's own do, by rounding."""


@dataclass
class Problems:
    """The problems found in a file or folder, by kind, and the annotations or files concerned."""

    source: str
    found: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, name: str) -> None:
        self.found.setdefault(kind, []).append(name)

    def counts(self) -> dict[str, int]:
        """The number of each kind."""
        return {kind: len(names) for kind, names in self.found.items()}

    def lines(self) -> list[str]:
        """One line per kind: number, consequence, the first few names."""
        return [
            f"{self.source}: {len(names):,} × {kind}{'' if kind in _NOTES else ', skipped'}: {preview(names)}"
            for kind, names in self.found.items()
        ]


@dataclass(frozen=True)
class ObjectTable:
    """Images and objects as flat arrays, whose memory forked workers share.

    Objects are sorted by image: those of image i are `starts[i]:starts[i + 1]`.
    """

    classes: tuple[str, ...]  # by ascending category id; label k is classes[k]
    category_ids: np.ndarray  # (K,) int64
    image_ids: np.ndarray  # (N,) int64
    files: np.ndarray  # (N,) str, relative to the image folder
    sizes: np.ndarray  # (N, 2) int64: height, width
    starts: np.ndarray  # (N + 1,) int64
    boxes: np.ndarray  # (M, 4) float64: x, y, width, height in pixels, as in the file
    labels: np.ndarray  # (M,) int64
    areas: np.ndarray  # (M,) float64, pixels
    crowd: np.ndarray  # (M,) bool
    segmentations: bytes  # as JSON, concatenated
    segmentation_ends: np.ndarray  # (M + 1,) int64: where each ends in `segmentations`, after a 0
    problems: Problems

    def segmentation(self, number: int) -> Any:
        """The segmentation of object `number`: polygons or RLE as in the file; None if it has none."""
        start, end = self.segmentation_ends[number : number + 2]
        return json.loads(self.segmentations[start:end])

    @property
    def has_masks(self) -> np.ndarray:
        """(M,) bool: which objects have a mask."""
        return np.diff(self.segmentation_ends) > len("null")


def pack(
    images: Sequence[Mapping[str, Any]],
    annotations: Iterable[Mapping[str, Any]],
    categories: Sequence[Mapping[str, Any]],
    problems: Problems,
    *,
    masks: bool = True,
) -> ObjectTable:
    """Check every annotation and pack the good ones.

    Args:
        images: records with `id` (unique), `file_name`, `height` and `width`.
        annotations: records with `image_id`, `category_id`, `bbox` (x, y, width, height in pixels) and optionally
            `area`, `iscrowd` and `segmentation`, as in COCO; messages call them by `origin`, or else by `id`.
        categories: records with `id` (unique) and `name`.
        problems: receives what is skipped.
        masks: read the masks; without them only those of objects that have no box, which is computed from them. The
            objects are the same.
    """
    categories = sorted(categories, key=lambda record: record["id"])
    label_of = {record["id"]: label for label, record in enumerate(categories)}
    position_of = {record["id"]: position for position, record in enumerate(images)}
    sizes = np.array([(record["height"], record["width"]) for record in images], dtype=np.int64).reshape(-1, 2)
    kept: list[list[Mapping[str, Any]]] = [[] for _ in images]
    for annotation in annotations:
        name = annotation.get("origin") or f"annotation {annotation['id']}"
        image, category = (annotation.get(key) for key in ("image_id", "category_id"))
        position = position_of.get(image) if isinstance(image, Hashable) else None
        if position is None:
            problems.add(NO_IMAGE, f"{name} (image {str(image)[:40]})")
        elif not isinstance(category, Hashable) or category not in label_of:
            problems.add(NO_CATEGORY, f"{name} (category {str(category)[:40]})")
        else:
            annotation, found = _checked(annotation, *sizes[position].tolist(), masks=masks)
            for problem in found:
                problems.add(problem, name)
            if not set(found) - _HARMLESS:
                kept[position].append(annotation)
    objects = list(chain.from_iterable(kept))
    labels = np.array([label_of[a["category_id"]] for a in objects], dtype=np.int64)
    for label in np.flatnonzero(np.bincount(labels, minlength=len(categories)) == 0):
        problems.add(UNUSED, _category_name(categories[label]))
    segmentations = [json.dumps(a.get("segmentation") or None, separators=(",", ":")).encode() for a in objects]
    return ObjectTable(
        classes=tuple(map(_category_name, categories)),
        category_ids=np.array([record["id"] for record in categories], dtype=np.int64),
        image_ids=np.array([record["id"] for record in images], dtype=np.int64),
        files=np.array([record["file_name"] for record in images], dtype=np.str_),
        sizes=sizes,
        starts=_ends(len(of_image) for of_image in kept),
        boxes=np.array([a["bbox"] for a in objects], dtype=np.float64).reshape(-1, 4),
        labels=labels,
        areas=np.array([_area(a) for a in objects], dtype=np.float64),
        crowd=np.array([bool(a.get("iscrowd")) for a in objects], dtype=bool),
        segmentations=b"".join(segmentations),
        segmentation_ends=_ends(map(len, segmentations)),
        problems=problems,
    )


_HARMLESS = {OVER_EDGE, FROM_MASK, BAD_PIECE, BAD_MASK, MASK_ELSEWHERE}


def _checked(
    annotation: Mapping[str, Any], height: int, width: int, *, masks: bool
) -> tuple[dict[str, Any], list[str]]:
    """An annotation of an image of this size with what can be used of it, and the kinds of problems that it has."""
    given: Any = annotation.get("segmentation") or None
    box: Any = annotation.get("bbox")
    # tools that have polygons only write no box, or zeros
    needs_box = bool(given) and not (_is_box(box) and any(box))
    shape, dropped = good_pieces(given, height, width) if given and (masks or needs_box) else (None, 0)
    bounds = mask_box(shape, height, width) if shape else None
    found = [BAD_PIECE] * bool(dropped and shape)
    if needs_box and bounds is not None:
        left, top, right, bottom = bounds
        box = [left, top, right - left, bottom - top]
        found.append(FROM_MASK)
    annotation = {**annotation, "bbox": box, "segmentation": shape if masks else None}
    if not _is_box(box) or not all(map(is_coordinate, box)):
        return annotation, [*found, NO_BOX if needs_box else NO_NUMBERS]
    x, y, w, h = map(float, box)
    if w <= 0 or h <= 0:
        return annotation, [*found, NO_AREA]
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return annotation, [*found, OUTSIDE]
    if given and masks:
        left, top, right, bottom = bounds or (x, y, x, y)
        if min(right, x + w) <= max(left, x) or min(bottom, y + h) <= max(top, y):
            found.append(MASK_ELSEWHERE if bounds else BAD_MASK)
            annotation["segmentation"] = None
    inside = min(x, y) >= -_ROUNDING and x + w <= width + _ROUNDING and y + h <= height + _ROUNDING
    return annotation, found if inside else [*found, OVER_EDGE]


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(isinstance(value, int | float) for value in box)


def _area(annotation: Mapping[str, Any]) -> float:
    """The area given in the file, by which the evaluation tells small from large objects; else that of the box."""
    area, (_, _, width, height) = annotation.get("area"), annotation["bbox"]
    return float(area) if isinstance(area, int | float) and 0 < area < 1e18 else float(width) * float(height)


def _category_name(category: Mapping[str, Any]) -> str:
    """The name of a category; its id where it has none."""
    name = category.get("name")
    return valid_name((name.strip() if isinstance(name, str) else str(name or "")) or str(category["id"]))


def _ends(lengths: Iterable[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(list(lengths), dtype=np.int64)]).astype(np.int64)
