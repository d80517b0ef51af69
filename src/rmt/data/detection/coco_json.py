"""Read a COCO-format JSON, check every record and pack it into flat arrays.

An error: the file is not complete JSON, or not of this format; image, annotation or category ids are not unique.
Skipped, counted and named in `Problems`: boxes without area, boxes outside the image, masks that do not overlap their
box or are of another size, annotations whose image or category is not listed. Only named: boxes that reach beyond the
image (clipped for training), categories without an object.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from rmt.data.detection.rle import mask_box
from rmt.data.sets import preview
from rmt.errors import RMTError

NO_AREA = "box of zero or negative size"
OUTSIDE = "box outside its image"
MASK_ELSEWHERE = "mask that misses its box"
BAD_MASK = "mask that cannot be read"
NO_IMAGE = "annotation whose image is not listed"
NO_CATEGORY = "annotation of a category that is not listed"
OVER_EDGE = "box that reaches over the edge (clipped)"
UNUSED = "category that no image has"
_KEPT = (OVER_EDGE, UNUSED)
_ROUNDING = 1.0
"""Boxes may reach this many pixels beyond the image without being reported: COCO's own do, by rounding."""


@dataclass
class Problems:
    """The problems found in a file, by kind, and the annotations concerned."""

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
            f"{self.source}: {len(names):,} × {kind}{'' if kind in _KEPT else ', skipped'}: {preview(names)}"
            for kind, names in self.found.items()
        ]


@dataclass(frozen=True)
class CocoTable:
    """Images and objects of any COCO-format file as flat arrays, whose memory forked workers share.

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


def read_coco(path: Path) -> CocoTable:
    """Read and check a COCO-format JSON. Raises `RMTError` for the errors listed above."""
    content = _read_json(path)
    parts = ("images", "annotations", "categories")
    images, annotations, categories = (_records(content, part, path) for part in parts)
    problems = Problems(path.name)
    if not images or not categories:
        raise RMTError(f"{path}: lists no {'categories' if images else 'images'}")
    categories = sorted(categories, key=lambda record: record["id"])
    label_of = {record["id"]: label for label, record in enumerate(categories)}
    sizes = np.array([_image_size(record, path) for record in images], dtype=np.int64).reshape(-1, 2)
    position_of = {record["id"]: position for position, record in enumerate(images)}

    kept: list[list[dict]] = [[] for _ in images]
    for annotation in annotations:
        position, name = position_of.get(annotation.get("image_id")), f"annotation {annotation['id']}"
        if position is None:
            problems.add(NO_IMAGE, f"{name} (image {annotation.get('image_id')})")
        elif annotation.get("category_id") not in label_of:
            problems.add(NO_CATEGORY, f"{name} (category {annotation.get('category_id')})")
        else:
            problem = _problem(annotation, *sizes[position].tolist())
            if problem is not None:
                problems.add(problem, name)
            if problem in (None, OVER_EDGE):
                kept[position].append(annotation)
    objects = list(chain.from_iterable(kept))
    labels = np.array([label_of[a["category_id"]] for a in objects], dtype=np.int64)
    for label in np.flatnonzero(np.bincount(labels, minlength=len(categories)) == 0):
        problems.add(UNUSED, str(categories[label].get("name", categories[label]["id"])))
    segmentations = [json.dumps(a.get("segmentation") or None, separators=(",", ":")).encode() for a in objects]
    return CocoTable(
        classes=tuple(str(record.get("name", record["id"])) for record in categories),
        category_ids=np.array([record["id"] for record in categories], dtype=np.int64),
        image_ids=np.array([record["id"] for record in images], dtype=np.int64),
        files=np.array([_file_name(record, path) for record in images]),
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


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise RMTError(f"{path}: {reason}") from None
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError too
        where = f"at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "in its encoding"
        raise RMTError(f"{path}: not a complete JSON file (broken {where}); download or write it again") from None
    if not isinstance(content, Mapping):
        raise RMTError(f"{path}: not in COCO format: an object with images, annotations and categories is expected")
    return content


def _records(content: Mapping[str, Any], part: str, path: Path) -> list[dict[str, Any]]:
    records = content.get(part)
    if not isinstance(records, list):
        raise RMTError(f"{path}: not in COCO format: it has no list {part!r}")
    for number, record in enumerate(records):
        if not isinstance(record, dict) or not _is_integer(record.get("id")):
            raise RMTError(f"{path}: {part}[{number}] must be an object whose id is a whole number")
    unique, counts = np.unique([record["id"] for record in records], return_counts=True)
    if (counts > 1).any():
        twice = preview([str(number) for number in unique[counts > 1]])
        raise RMTError(f"{path}: ids that occur more than once in {part}: {twice}; number them uniquely")
    return records


def _image_size(record: Mapping[str, Any], path: Path) -> tuple[int, int]:
    height, width = record.get("height", 0), record.get("width", 0)
    if not (_is_integer(height) and _is_integer(width) and height > 0 and width > 0):
        raise RMTError(f"{path}: image {record['id']} has no positive whole height and width")
    return height, width


def _file_name(record: Mapping[str, Any], path: Path) -> str:
    name = record.get("file_name")
    if not isinstance(name, str) or not name:
        raise RMTError(f"{path}: image {record['id']} has no file_name")
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise RMTError(f"{path}: image {record['id']} lies outside the image folder ({name})")
    return name


def _problem(annotation: Mapping[str, Any], height: int, width: int) -> str | None:
    """The kind of problem that an annotation of an image of this size has; None if it has none."""
    box = annotation.get("bbox")
    if not (isinstance(box, list) and len(box) == 4 and all(isinstance(v, int | float) for v in box)):
        return NO_AREA
    x, y, w, h = map(float, box)
    if not all(map(math.isfinite, box)) or w <= 0 or h <= 0:
        return NO_AREA
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return OUTSIDE
    if segmentation := annotation.get("segmentation"):
        mask_bounds = mask_box(segmentation, height, width)
        if mask_bounds is None:
            return BAD_MASK
        left, top, right, bottom = mask_bounds
        if min(right, x + w) <= max(left, x) or min(bottom, y + h) <= max(top, y):
            return MASK_ELSEWHERE
    inside = min(x, y) >= -_ROUNDING and x + w <= width + _ROUNDING and y + h <= height + _ROUNDING
    return None if inside else OVER_EDGE


def _area(annotation: Mapping[str, Any]) -> float:
    """The area given in the file, by which the evaluation tells small from large objects; else that of the box."""
    area, (_, _, width, height) = annotation.get("area"), annotation["bbox"]
    return float(area) if isinstance(area, int | float) and area > 0 else float(width) * float(height)


def _ends(lengths: Iterable[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(list(lengths), dtype=np.int64)]).astype(np.int64)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
