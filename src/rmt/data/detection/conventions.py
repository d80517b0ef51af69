"""Signs that the numbers of a COCO-format file mean something else than COCO's, judged over the whole file.

Trained on, such numbers would give a detector of wrong boxes or classes; a question names what they look like.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

_MOST = 0.5  # share of boxes within 0…1 above which they are shares
_BEYOND = 0.1  # share of boxes beyond the right or bottom edge above which another form is looked for
_FEW = 3  # boxes beyond the edge that are needed
_FITS = 0.99  # share of boxes that another form must fit
_STRAY = 0.01  # share of boxes beyond the left or top edge, which no other form explains
_UNLISTED = 0.05  # share of annotations with an id that is not listed above which ids may be shifted


def box_question(images: Sequence[Mapping[str, Any]], annotations: Iterable[Mapping[str, Any]]) -> str:
    """A question about the boxes; "" if they can be x, y, width, height in pixels."""
    sizes = {record["id"]: (record["width"], record["height"]) for record in images}
    rows = [
        (*box, *sizes[image])
        for box, image in ((a.get("bbox"), a.get("image_id")) for a in annotations)
        if isinstance(image, int)
        and image in sizes
        and isinstance(box, list)
        and len(box) == 4
        and all(_is_number(v) for v in box)
        and any(box)
    ]
    if not rows:
        return ""
    x, y, w, h, width, height = np.array(rows, dtype=np.float64).T
    shares = (np.stack([x, y, w, h]).max(axis=0) <= 1) & (np.stack([x, y]).min(axis=0) >= 0)
    if shares.mean() > _MOST:
        return f"{100 * shares.mean():.0f} % of the boxes lie within 0…1: are these shares of the sides of the image?"
    beyond = (x + w > width + 1) | (y + h > height + 1)
    if beyond.sum() < _FEW or beyond.mean() < _BEYOND or ((x < -1) | (y < -1)).mean() > _STRAY:
        return ""
    corners = (w > x) & (h > y) & (w <= width + 1) & (h <= height + 1)
    centres = (x - w / 2 >= -1) & (y - h / 2 >= -1) & (x + w / 2 <= width + 1) & (y + h / 2 <= height + 1)
    for fits, form in ((corners, "x1, y1, x2, y2"), (centres, "centre x, centre y, width, height")):
        if fits.mean() >= _FITS:
            return (
                f"{100 * beyond.mean():.0f} % of the boxes reach over the right or bottom edge of their image, and as "
                f"{form} {100 * fits.mean():.0f} % would lie inside: are these {form}?"
            )
    return ""


def id_question(annotations: Sequence[Mapping[str, Any]], key: str, listed: Iterable[int]) -> str:
    """A question about the ids that annotations give as `key`; "" if they can be those that are listed."""
    known = set(listed)
    used = [value if isinstance(value := annotation.get(key), int) else None for annotation in annotations]
    numbers = {value for value in used if isinstance(value, int)}
    unlisted = sum(isinstance(value, int) and value not in known for value in used)
    if unlisted <= _UNLISTED * len(used):
        return ""
    for shift in (1, -1):
        if {number + shift for number in numbers} <= known:
            return (
                f"{unlisted:,} of {len(used):,} annotations have a {key} that is not listed, and all would have one "
                f"that is if they counted from {min(numbers) + shift} instead of {min(numbers)}: are these ids off by "
                "one?"
            )
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
