"""COCO segmentations (polygons or run lengths, RLE) to pixels and back, by faster-coco-eval's mask functions."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rmt.extras import missing_extra


def mask_api() -> Any:
    """faster-coco-eval's mask functions. Raises `RMTError` if the package is missing."""
    try:
        from faster_coco_eval.core import mask
    except ModuleNotFoundError as error:
        raise missing_extra("reading masks", error) or error from None
    return mask


_OUTLINE = 1_000_000
"""Longest outline of a polygon that is decoded, in pixels; the mask functions walk along it."""
_FAR = 16
"""Vertices may lie this many sides of the image away from it; the mask functions take memory for the distance."""


def good_pieces(shape: Any, height: int, width: int) -> tuple[Any, int]:
    """The polygons of a segmentation that can be read (None if there is none), and the number of the others.

    A polygon that is not in a list of its own is put into one. Run lengths are returned as they are.
    """
    if not isinstance(shape, list):
        return shape, 0
    pieces = [shape] if shape and all(isinstance(value, int | float) for value in shape) else shape
    good = [piece for piece in pieces if _is_polygon(piece, _FAR * (height + width))]
    return good or None, len(pieces) - len(good)


def _is_polygon(piece: Any, most: int) -> bool:
    return (
        isinstance(piece, list)
        and len(piece) >= 6
        and len(piece) % 2 == 0
        and all(isinstance(value, int | float) and abs(value) <= most for value in piece)  # false for NaN
        and (len(piece) * most <= _OUTLINE or _outline(piece) <= _OUTLINE)
    )


def _outline(polygon: list[float]) -> float:
    """The length of the outline of a polygon in pixels, diagonals as their longer side."""
    points = np.array(polygon, dtype=np.float64).reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())


def is_coordinate(value: Any) -> bool:
    """Whether a value of a JSON file is a number that can be a position or size in pixels: finite, below a billion."""
    return isinstance(value, int | float) and -1e9 < value < 1e9  # false for NaN


def mask_box(shape: Any, height: int, width: int) -> tuple[float, float, float, float] | None:
    """Bounding box (left, top, right, bottom) of a segmentation; None if it is malformed or of another image size.

    The box of an RLE without a pixel is empty.
    """
    if isinstance(shape, list):
        if not shape or good_pieces(shape, height, width)[1]:
            return None
        xs, ys = [p[0::2] for p in shape], [p[1::2] for p in shape]
        return min(map(min, xs)), min(map(min, ys)), max(map(max, xs)), max(map(max, ys))
    rle = _rle(shape, height, width)
    if rle is None:
        return None
    left, top, across, down = map(float, mask_api().toBbox([rle])[0])
    return left, top, left + across, top + down


def _rle(shape: Any, height: int, width: int) -> dict[str, Any] | None:
    """A run-length segmentation in compressed form; None if it is malformed or of another size."""
    if not isinstance(shape, dict) or shape.get("size") != [height, width]:
        return None
    counts = shape.get("counts")
    if isinstance(counts, list):
        if not all(isinstance(run, int) and run >= 0 for run in counts) or sum(counts) != height * width:
            return None
        return mask_api().frPyObjects([{"size": [height, width], "counts": counts}], height, width)[0]
    if isinstance(counts, str | bytes) and _pixels(counts) == height * width:
        return {"size": [height, width], "counts": counts}
    return None


def _pixels(counts: str | bytes) -> int:
    """Number of pixels that a compressed RLE describes, −1 if it is malformed: the decoder in C++ does not check.

    The format: numbers in groups of five bits, lowest first; bit 5 is set if more groups follow, bit 4 of the last
    group is the sign; from the fourth run on each number is the difference to the run two before.
    """
    data = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
    runs: list[int] = []
    value = shift = 0
    for byte in data:
        group = byte - 48
        if not 0 <= group < 64 or shift > 30:
            return -1
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        if runs[-1] < 0:
            return -1
        value = shift = 0
    return sum(runs) if not shift else -1


def decode(shape: Any, height: int, width: int) -> np.ndarray:
    """A segmentation as (height, width) uint8, 1 inside. Polygons of one object are merged."""
    mask = mask_api()
    rle = mask.merge(mask.frPyObjects(shape, height, width)) if isinstance(shape, list) else _rle(shape, height, width)
    return np.ascontiguousarray(mask.decode([rle])[..., 0])


def encode(masks: np.ndarray) -> list[dict[str, Any]]:
    """(n, height, width) bool to n compressed RLEs as in COCO's result files: {"size": [h, w], "counts": text}."""
    if not len(masks):
        return []
    found: Sequence[dict] = mask_api().encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    return [{"size": list(rle["size"]), "counts": _text(rle["counts"])} for rle in found]


def _text(counts: str | bytes) -> str:
    return counts.decode("ascii") if isinstance(counts, bytes) else counts
