"""An image with its label map, and the geometric operations of timm's RandAugment and AutoAugment on both.

timm's policies pass whatever they are given from one operation to the next. Here it is a `LabelledImage`: each
operation is timm's own on the image, and rotation, shears and translations, with the numbers drawn for the image, move
the map.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image
from timm.data.auto_augment import AugmentOp, AutoAugment, RandAugment
from torchvision.transforms.functional import hflip

Matrix = tuple[float, float, float, float, float, float]
"""a, b, c, d, e, f of Pillow's affine transform: (x, y) of the result shows (a·x + b·y + c, d·x + e·y + f), in pixels,
the corner of the first pixel at (0, 0)."""
Size = tuple[int, int]


@dataclass(frozen=True)
class LabelledImage:
    """An image, or the part of one that `LimitAspect` leaves, and the label map of the whole.

    Attributes:
        image: the image or the part.
        scores, classes: (h, w, k), the map of the whole image.
        whole: width and height of the whole image in pixels.
        corner: left and top of the part in the whole, in pixels.
    """

    image: Image.Image
    scores: np.ndarray
    classes: np.ndarray
    whole: Size
    corner: tuple[int, int] = (0, 0)

    def mirrored(self) -> "LabelledImage":
        """Image and map flipped horizontally."""
        return LabelledImage(
            hflip(self.image),
            self.scores[:, ::-1].copy(),
            self.classes[:, ::-1].copy(),
            self.whole,
            (self.whole[0] - self.corner[0] - self.image.width, self.corner[1]),
        )

    def moved(self, image: Image.Image, matrix: Matrix) -> "LabelledImage":
        """`image` with the map moved by `matrix`: each cell takes the value of the cell that its centre shows.

        The scores of cells whose centre shows a place outside the image are 0.
        """
        (height, width), (left, top) = self.scores.shape[:2], self.corner
        x = (np.arange(width) + 0.5) * (self.whole[0] / width) - left
        y = (np.arange(height)[:, None] + 0.5) * (self.whole[1] / height) - top
        a, b, c, d, e, f = matrix
        from_x, from_y = a * x + b * y + c, d * x + e * y + f  # (height, width), in pixels of the image
        inside = (from_x >= 0) & (from_x < image.width) & (from_y >= 0) & (from_y < image.height)
        column = np.floor((from_x + left) * (width / self.whole[0])).astype(int).clip(0, width - 1)
        row = np.floor((from_y + top) * (height / self.whole[1])).astype(int).clip(0, height - 1)
        scores = np.where(inside[..., None], self.scores[row, column], self.scores.dtype.type(0))
        return replace(self, image=image, scores=scores, classes=self.classes[row, column])


def move_maps(policy: RandAugment | AutoAugment, *, swap_axes: bool = False) -> None:
    """Change the operations of `policy` so that it takes and returns a `LabelledImage`.

    Args:
        policy: timm's; changed in place.
        swap_axes: move the map by shear y where the image is moved by shear x, and conversely.
    Raises:
        ValueError: it is not known whether an operation moves the image.
    """
    for op in _operations(policy):
        function: Any = op.aug_fn
        name = function.__name__.lstrip("_")
        if name not in _MATRICES and name not in _COLOUR:
            raise ValueError(f"label maps cannot follow the operation {op.name}")
        op.aug_fn = _OnBoth(function, _SWAPPED.get(name, name) if swap_axes else name)  # type: ignore[assignment]


@dataclass(frozen=True)
class _OnBoth:
    """An operation of timm on the image, and its equal on the map."""

    function: Callable[..., Image.Image]
    name: str

    def __call__(self, labelled: LabelledImage, *args: float, **options: Any) -> LabelledImage:
        image = self.function(labelled.image, *args, **options)
        if self.name in _COLOUR:
            return replace(labelled, image=image)
        return labelled.moved(image, _MATRICES[self.name](labelled.image.size, *args))


def _operations(policy: Any) -> list[AugmentOp]:
    """The operations of a policy, also of one that is a list of sub-policies."""
    if isinstance(policy, AugmentOp):
        return [policy]
    inner = policy if isinstance(policy, list | tuple) else policy.ops if hasattr(policy, "ops") else policy.policy
    return [op for part in inner for op in _operations(part)]


def _shear_x(size: Size, factor: float) -> Matrix:
    return 1, factor, 0, 0, 1, 0


def _shear_y(size: Size, factor: float) -> Matrix:
    return 1, 0, 0, factor, 1, 0


def _translate_x(size: Size, pixels: float) -> Matrix:
    return 1, 0, pixels, 0, 1, 0


def _translate_y(size: Size, pixels: float) -> Matrix:
    return 1, 0, 0, 0, 1, pixels


def _translate_x_rel(size: Size, fraction: float) -> Matrix:
    return _translate_x(size, fraction * size[0])


def _translate_y_rel(size: Size, fraction: float) -> Matrix:
    return _translate_y(size, fraction * size[1])


def _rotate(size: Size, degrees: float) -> Matrix:
    """Counter-clockwise around the centre."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = size[0] / 2, size[1] / 2
    return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y


#: By the names of timm's functions.
_MATRICES: dict[str, Callable[..., Matrix]] = {
    "rotate": _rotate,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x_abs": _translate_x,
    "translate_y_abs": _translate_y,
    "translate_x_rel": _translate_x_rel,
    "translate_y_rel": _translate_y_rel,
}
_SWAPPED = {"shear_x": "shear_y", "shear_y": "shear_x"}
_COLOUR = {"auto_contrast", "brightness", "color", "contrast", "desaturate", "equalize", "gaussian_blur"}
_COLOUR |= {"gaussian_blur_rand", "invert", "posterize", "sharpness", "solarize", "solarize_add"}
