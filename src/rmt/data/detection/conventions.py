"""Signs that the numbers of a COCO-format file mean something else than COCO's, judged over the whole file.

Trained on, such numbers would give a detector of wrong boxes or classes; a question names what they look like.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np

FORMS = {"xywh": "x, y, width, height", "xyxy": "x1, y1, x2, y2", "cxcywh": "centre x, centre y, width, height"}
"""The forms of boxes by torchvision's names. With `NORMALIZED` before it, the numbers are shares of the sides."""
NORMALIZED = "normalized_"
_MOST = 0.5  # share of boxes within 0…1 above which they are shares
_BEYOND = 0.1  # share of boxes beyond the right or bottom edge above which another form is looked for
_FEW = 3  # boxes beyond the edge that are needed
_FITS = 0.99  # share of boxes that another form must fit
_STRAY = 0.01  # share of boxes beyond the left or top edge, which no other form explains
_UNFIT = 0.5  # share of boxes that do not fit the form that was named above which it is refused
_UNLISTED = 0.05  # share of annotations with an id that is not listed above which ids may be shifted


def read_boxes(images: Sequence[Mapping[str, Any]], annotations: Iterable[dict[str, Any]], form: str) -> str:
    """Bring the boxes to x, y, width, height in pixels, in place; a question about them, or "".

    Args:
        form: that of the boxes in the file, such as `normalized_cxcywh`; "auto": x, y, width, height in pixels, and a
            question where they look like another one. A form that does not fit most boxes gives a question, too.
    """
    sizes = {record["id"]: (record["width"], record["height"]) for record in images}
    of_images = [a for a in annotations if isinstance(a.get("image_id"), int) and a["image_id"] in sizes]
    given = [a for a in of_images if _is_box(box := a.get("bbox")) and any(box)]  # zeros: computed from the mask
    if not given:
        return ""
    boxes = np.array([a["bbox"] for a in given], dtype=np.float64)
    sides = np.array([sizes[a["image_id"]] for a in given], dtype=np.float64)
    if form == "auto":
        return _question(boxes, sides)
    if form == "xywh":  # as they are
        return ""
    read = to_xywh(boxes, sides, form)
    unfit = ((read[:, 2:] <= 0) | (read[:, :2] + read[:, 2:] > sides + 1)).any(axis=1).mean()
    if unfit > _UNFIT:
        return (
            f"read with --boxes {option(form)}, {100 * unfit:.0f} % of the boxes would have no area or reach over the "
            "edge of their image: are these of another form?"
        )
    for annotation, box in zip(given, read.tolist(), strict=True):
        annotation["bbox"], area = box, annotation.get("area")
        if not (_is_number(area) and 1 < area <= 1.01 * box[2] * box[3]):  # of shares, or of sides that were none
            annotation.pop("area", None)
    return ""


def to_xywh(boxes: np.ndarray, sides: np.ndarray, form: str) -> np.ndarray:
    """Boxes (n, 4) of a form as x, y, width, height in pixels. sides: (n, 2), width and height of the images."""
    if form.startswith(NORMALIZED):
        boxes, form = boxes * np.tile(sides, 2), form.removeprefix(NORMALIZED)
    start, end = boxes[:, :2], boxes[:, 2:]
    if form == "xyxy":
        end = end - start
    elif form == "cxcywh":
        start = start - end / 2
    return np.concatenate([start, end], axis=1)


def option(form: str) -> str:
    """A form as it is written on the command line."""
    return form.replace("_", "-")


def _question(boxes: np.ndarray, sides: np.ndarray) -> str:
    """What boxes that should be x, y, width, height in pixels look like instead; "" if they can be that."""
    shares = (boxes.max(axis=1) <= 1) & (boxes[:, :2].min(axis=1) >= 0)
    if shares.mean() > _MOST:
        inside = {form: _inside(boxes[shares], np.ones_like(sides[shares]), form, 1e-3).mean() for form in FORMS}
        likely = next((form for form in FORMS if inside[form] >= _FITS), max(inside, key=inside.__getitem__))
        return (
            f"{100 * shares.mean():.0f} % of the boxes lie within 0…1: are these shares of the sides of the image? "
            f"{_remedy(NORMALIZED, likely)}"
        )
    beyond = (boxes[:, :2] + boxes[:, 2:] > sides + 1).any(axis=1)
    if beyond.sum() < _FEW or beyond.mean() < _BEYOND or (boxes[:, :2] < -1).any(axis=1).mean() > _STRAY:
        return ""
    for form in ("xyxy", "cxcywh"):
        fits = _inside(boxes, sides, form, 1.0).mean()
        if fits >= _FITS:
            return (
                f"{100 * beyond.mean():.0f} % of the boxes reach over the right or bottom edge of their image, and as "
                f"{FORMS[form]} {100 * fits:.0f} % would lie inside: are these {FORMS[form]}? {_remedy('', form)}"
            )
    return ""


def _inside(boxes: np.ndarray, sides: np.ndarray, form: str, slack: float) -> np.ndarray:
    """(n,) bool: which boxes, read in this form, have an area and lie within their image."""
    read = to_xywh(boxes, sides, form)
    ends = read[:, :2] + read[:, 2:]
    return (read[:, 2:] > 0).all(axis=1) & (read[:, :2] >= -slack).all(axis=1) & (ends <= sides + slack).all(axis=1)


def _remedy(unit: str, likely: str) -> str:
    """The options that answer the question, the likely one first."""
    others = " or ".join(option(unit + form) for form in FORMS if form != likely and (unit or form != "xywh"))
    return (
        f"If so: --boxes {option(unit + likely)} (or {others}); if they are x, y, width, height in pixels: --boxes xywh"
    )


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
                "one? If so, write the file again with the ids of its lists"
            )
    return ""


def _is_box(box: Any) -> TypeGuard[list[float]]:
    return isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
