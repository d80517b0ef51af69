"""The images that a predictor takes, read in one way: a path, the bytes of a file, a PIL image, an array or a tensor.

Whichever it is, the result is the upright 8-bit RGB image that `read_image` makes of the same picture in a file.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rmt.data.images import MAX_PIXELS, BadImage, read_image

ImageLike = str | Path | bytes | bytearray | Image.Image | np.ndarray | Tensor
"""An image: a path, the bytes of a file, a PIL image, an array or a tensor.

Arrays are (height, width) or (height, width, channels), tensors (height, width) or (channels, height, width), with 1
to 4 channels: grey, grey and alpha, RGB, RGB and alpha. Values: uint8, uint16, bool, or floating point in 0…1."""

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def as_list(images: ImageLike | Sequence[ImageLike]) -> tuple[list[Any], bool]:
    """Returns the images as a list, and whether there was one alone. Arrays and tensors of four dimensions are several.

    Raises:
        BadImage: neither an image nor a sequence.
    """
    if isinstance(images, np.ndarray | Tensor) and not getattr(images, "is_nested", False):
        return (list(images), False) if images.ndim == 4 else ([images], True)
    if isinstance(images, ImageLike):
        return [images], True
    try:
        return list(images), False
    except TypeError:
        raise _no_image(images, "image") from None


def open_image(image: ImageLike, name: str = "image") -> Image.Image:
    """Returns the image as upright 8-bit RGB. `name`: what an error calls an image that is no path.

    Raises:
        BadImage: an RMTError, for an image that cannot be read.
    """
    if isinstance(image, str | Path):
        return read_image(Path(image))
    if isinstance(image, bytes | bytearray):
        return read_image(bytes(image), name)
    if isinstance(image, Image.Image):
        return read_image(image, name)
    if isinstance(image, np.ndarray):
        return read_image(_from_array(image, name), name)
    if isinstance(image, Tensor):
        return read_image(_from_array(_channels_last(image, name), name), name)
    raise _no_image(image, name)


def open_or_error(image: Any, name: str) -> Image.Image | BadImage:
    """As `open_image`, but returns the error of an image that cannot be read."""
    try:
        return open_image(image, name)
    except BadImage as error:
        return error


def _from_array(values: np.ndarray, name: str) -> Image.Image:
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in _MODES):
        hint = ""
        if values.ndim == 3 and values.shape[0] in _MODES:
            hint = ": put the channels last, e.g. by array.transpose(1, 2, 0)"
        raise BadImage(
            name, f"an array of shape {values.shape}, not (height, width) or (height, width, channels){hint}"
        )
    if not values.size:
        raise BadImage(name, f"an array of shape {values.shape}, which has no pixels")
    if values.shape[0] * values.shape[1] > MAX_PIXELS:
        raise BadImage(
            name, f"{values.shape[1]:,}×{values.shape[0]:,} pixels: above the limit of {MAX_PIXELS:,} pixels"
        )
    if values.dtype == bool:
        values = values.astype(np.uint8) * np.uint8(255)
    elif values.dtype in (np.uint16, ">u2", "<u2"):
        values = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif values.dtype.kind == "f":
        if not (values.min() >= 0 and values.max() <= 1):  # also false for NaN
            raise BadImage(
                name, "floating-point pixels outside 0…1: pass an image that is not normalised, or uint8 for 0…255"
            )
        values = np.rint(values.astype(np.float32) * 255).astype(np.uint8)
    elif values.dtype != np.uint8:
        raise BadImage(name, f"pixels of {values.dtype}: pass uint8 (0…255), uint16 (0…65,535), bool or floats in 0…1")
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(values), "L" if values.ndim == 2 else _MODES[values.shape[2]])


def _channels_last(image: Tensor, name: str) -> np.ndarray:
    """The values of a tensor as an array (height, width, channels)."""
    if image.is_nested or image.is_meta or image.layout != torch.strided or image.is_quantized:
        raise BadImage(name, "a tensor without pixels of its own (meta, sparse, nested or quantised)")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[0] not in _MODES):
        hint = ""
        if image.ndim == 3 and image.shape[2] in _MODES:
            hint = ": put the channels first, e.g. by tensor.permute(2, 0, 1)"
        shape = tuple(image.shape)
        raise BadImage(name, f"a tensor of shape {shape}, not (height, width) or (channels, height, width){hint}")
    image = image.detach().cpu()
    if image.is_floating_point():
        image = image.float()  # NumPy has no bfloat16
    return (image if image.ndim == 2 else image.permute(1, 2, 0)).numpy()


def _no_image(image: Any, name: str) -> BadImage:
    return BadImage(name, f"a {type(image).__name__}, not a path, bytes, PIL image, array or tensor")
