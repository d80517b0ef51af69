"""Shears and translations of an image along one axis, by Pillow's interpolation in less time.

`Image.transform` interpolates every pixel along both axes in double precision, one after another. Here each row is
moved by a number of its own and interpolated along the row, for all pixels at once. The result is Pillow's; in a few of
a thousand pixels it is one level higher, because of float32 arithmetic.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import _check_args_tf
from torch import Tensor

_BEFORE_CUT = 1e-3  # Pillow cuts off the fraction: a sum just below a whole number must not lose a level


def shift_rows(image: np.ndarray, shifts: np.ndarray, resample: int, fill: Sequence[int]) -> np.ndarray:
    """Row y of the result at x is row y of the image at x + shifts[y]; `fill` where that is outside.

    Args:
        image: uint8 (H, W, C).
        shifts: (H,) in pixels, float64.
        resample: Pillow's BILINEAR or BICUBIC.
    """
    height, width, channels = image.shape
    whole = np.floor(shifts)
    part = torch.from_numpy((shifts - whole).astype(np.float32))[:, None]
    whole = whole.clip(-width - 2, width + 2).astype(np.int64)  # farther is outside, too
    left, right = max(0, 1 - int(whole.min())), max(0, 2 + int(whole.max()))
    padded = np.empty((height, left + width + right, channels), np.uint8)
    padded[:, left : left + width] = image
    padded[:, :left], padded[:, left + width :] = image[:, :1], image[:, -1:]
    taps = _windows(padded.reshape(height, -1), (left + whole - 1) * channels, (width + 3) * channels)
    taps_as_floats = torch.from_numpy(taps).float()
    sums = torch.full((height, width * channels), _BEFORE_CUT)
    for tap, weight in enumerate(_weights(part, resample)):
        if weight is not None:
            sums.addcmul_(taps_as_floats[:, tap * channels : (tap + width) * channels], weight)
    moved = sums.clamp_(0, 255).numpy().astype(np.uint8)  # torch converts more slowly
    # The centre of pixel x is inside where 0 <= x + 0.5 + shift < width: for `width` pixels from this one on.
    first = np.ceil(-0.5 - shifts).clip(-width, width).astype(np.int64)
    line = np.ones((1, 3 * width * channels), bool)
    line[:, width * channels : 2 * width * channels] = False
    outside = _windows(np.broadcast_to(line, (height, line.size)), (width - first) * channels, width * channels)
    np.copyto(moved, np.tile(np.asarray(fill, np.uint8), width), where=outside)
    return moved.reshape(height, width, channels)


def _windows(rows: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """`length` values from each row, (H, length), beginning at starts (H,)."""
    windows = np.lib.stride_tricks.sliding_window_view(rows, length, axis=1)
    return windows[np.arange(len(rows)), starts]


def _weights(part: Tensor, resample: int) -> list[Tensor | None]:
    """Weights of the pixels at −1, 0, 1 and 2 for positions between 0 and 1; the cubic is Keys's with a = −1."""
    if resample == Image.Resampling.BILINEAR:
        return [None, 1 - part, part, None]
    square, cube = part**2, part**3
    return [2 * square - part - cube, 1 - 2 * square + cube, part + square - cube, cube - square]


def fast_operation(name: str) -> Callable[..., Image.Image] | None:
    """The function that replaces the one of this name in `timm.data.auto_augment`; None if there is none."""
    return _OPERATIONS.get(name)


def _shear(image: Image.Image, factor: float, *, along_y: bool, **options: Any) -> Image.Image:
    length = image.width if along_y else image.height
    return _shifted(image, factor * (np.arange(length) + 0.5), along_y, options)


def _translate(image: Image.Image, pixels: float, *, along_y: bool, **options: Any) -> Image.Image:
    length = image.width if along_y else image.height
    return _shifted(image, np.full(length, float(pixels)), along_y, options)


def _translate_part(image: Image.Image, part: float, *, along_y: bool, **options: Any) -> Image.Image:
    side = image.height if along_y else image.width
    return _translate(image, part * side, along_y=along_y, **options)


def _shifted(image: Image.Image, shifts: np.ndarray, along_y: bool, options: dict[str, Any]) -> Image.Image:
    _check_args_tf(options)  # draws one of several interpolations
    if along_y:
        image = image.transpose(Image.Transpose.TRANSPOSE)
    image = Image.fromarray(shift_rows(np.asarray(image), shifts, options["resample"], options["fillcolor"]))
    return image.transpose(Image.Transpose.TRANSPOSE) if along_y else image


_OPERATIONS: dict[str, Callable[..., Image.Image]] = {  # no lambdas: they could not be pickled for a worker process
    f"{name}_{axis}{kind}": partial(function, along_y=axis == "y")
    for name, kind, function in (
        ("shear", "", _shear),
        ("translate", "_abs", _translate),
        ("translate", "_rel", _translate_part),
    )
    for axis in "xy"
}
