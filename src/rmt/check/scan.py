"""Decode the images of a split: sizes, files that cannot be read, EXIF rotation, content, pixels per class."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rmt.data.detection.dataset import DetectionSet
from rmt.data.images import BadImage, open_safely, read_image, read_orientation
from rmt.data.segmentation.dataset import SegmentationSet
from rmt.data.sources.shards import ShardSet

_SHARDS = 4  # shards that are read at most: each is converted as a whole
_AHEAD = 32  # images that are decoded ahead


@dataclass
class Scan:
    """What was found in the images of one split that were looked at.

    Attributes:
        total, looked: images in the split, and how many were looked at.
        sizes: (width, height) of each readable image, upright.
        unreadable: name -> reason, of images and masks.
        rotated: images that a camera stored rotated.
        names: content of an image -> its first name.
        repeated: (name, name of an earlier image with the same pixels).
        pixels: segmentation: pixels of each class, and in the last place ignored ones.
        shown: segmentation: images that show each class.
        values: segmentation: raw value of index masks -> pixels.
    """

    total: int
    looked: int = 0
    sizes: list[tuple[int, int]] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    rotated: list[str] = field(default_factory=list)
    names: dict[bytes, str] = field(default_factory=dict)
    repeated: list[tuple[str, str]] = field(default_factory=list)
    pixels: np.ndarray | None = None
    shown: np.ndarray | None = None
    values: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Look:
    name: str
    size: tuple[int, int] | None = None
    content: bytes = b""
    rotated: bool = False
    fault: tuple[str, str] | None = None
    counts: np.ndarray | None = None  # (256,) pixels of each label
    values: Counter[int] = field(default_factory=Counter)


def scan(images: Any, most: int, advance: Callable[[], object]) -> Scan:
    """Look at the images of a set, at most `most` (0: all), evenly spread; `advance` is called after each."""
    result = Scan(total=len(images))
    if isinstance(images, SegmentationSet):
        result.pixels = np.zeros(len(images.classes.names) + 1, dtype=np.int64)
        result.shown = np.zeros(len(images.classes.names), dtype=np.int64)
    indices = chosen(images, most).tolist()
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for start in range(0, len(indices), _AHEAD):
            for look in pool.map(lambda index: _look(images, index), indices[start : start + _AHEAD]):
                _add(result, look)
                advance()
    return result


def chosen(images: Any, most: int) -> np.ndarray:
    """The indices that are looked at, int64: evenly spread, and of streamed shards in a few of them."""
    candidates = np.arange(len(images))
    if isinstance(images, ShardSet) and most and most < len(images) and (order := images.order) is not None:
        starts = np.concatenate([[0], order.ends[:-1]])
        picked = np.unique(np.linspace(0, len(order.ends) - 1, min(_SHARDS, len(order.ends))).astype(int))
        candidates = np.concatenate([np.arange(starts[i], order.ends[i]) for i in picked])
    count = len(candidates) if not most else min(most, len(candidates))
    return candidates[np.unique(np.linspace(0, len(candidates) - 1, count).astype(np.int64))]


def file_of(images: Any, index: int) -> Path | None:
    """The file of an image; None for images in shards."""
    return None if isinstance(images, ShardSet) else Path(images.name(index))


def _look(images: Any, index: int) -> _Look:
    name, path = images.name(index), file_of(images, index)
    try:
        image = read_image(path) if isinstance(images, SegmentationSet) and path else images.load(index)
    except BadImage as error:
        return _Look(name, fault=(error.name, error.reason))
    content = hashlib.blake2b(f"{image.size}".encode() + image.tobytes(), digest_size=16).digest()
    rotated = path is not None and read_orientation(path) != 1
    if not isinstance(images, SegmentationSet):
        return _Look(name, image.size, content, rotated)
    values: Counter[int] = Counter()
    try:
        values = mask_values(images.masks[index])
        counts = np.bincount(images.load_mask(index, image.size).ravel(), minlength=256)
    except BadImage as error:
        return _Look(name, image.size, content, rotated, (error.name, error.reason), values=values)
    return _Look(name, image.size, content, rotated, counts=counts, values=values)


def mask_values(path: Path) -> Counter[int]:
    """The values of a mask of indices, and their pixels; empty for a mask of colours. Raises `BadImage`."""
    with open_safely(path, str(path)) as image:
        if image.mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
            return Counter()
        found, counts = np.unique(np.asarray(image), return_counts=True)
    return Counter(dict(zip(found.astype(int).tolist(), counts.tolist(), strict=True)))


def _add(result: Scan, look: _Look) -> None:
    result.looked += 1
    if look.fault:
        result.unreadable[look.fault[0]] = look.fault[1]
    result.values += look.values
    if look.size is None:
        return
    result.sizes.append(look.size)
    if look.rotated:
        result.rotated.append(look.name)
    first = result.names.setdefault(look.content, look.name)
    if first != look.name:
        result.repeated.append((look.name, first))
    if look.counts is not None and result.pixels is not None and result.shown is not None:
        classes = len(result.shown)
        result.pixels += np.append(look.counts[:classes], look.counts[classes:].sum())
        result.shown += look.counts[:classes] > 0


def box_facts(images: DetectionSet) -> dict[str, Any]:
    """Objects of a detection set: number, images without any, and quantiles of √area as a share of the short side."""
    table = images.table
    of_image = np.repeat(np.arange(len(table.files)), np.diff(table.starts))
    kept = images.usable & ~table.crowd & np.isin(of_image, images.indices)
    sizes = np.sqrt(table.boxes[kept, 2] * table.boxes[kept, 3]) / table.sizes[of_image[kept]].min(axis=1)
    quantiles = np.quantile(sizes, [0.1, 0.5, 0.9]).tolist() if len(sizes) else []
    return {
        "objects": int(kept.sum()),
        "crowd": int((images.usable & table.crowd).sum()),
        "images_without_objects": int((~np.isin(images.indices, of_image[kept])).sum()),
        "size_quantiles": quantiles,
        "smallest_side_px": float(table.boxes[kept, 2:].min()) if len(sizes) else None,
    }
