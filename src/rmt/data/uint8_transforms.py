"""The training transform on uint8 tensors: what `train_transform` does, in about half of the time.

Images are decoded by `rmt.data.jpeg`, cropped and resized by PyTorch's interpolation for uint8, and sheared and
translated by `rmt.data.shifts`. Normalisation is left to the device that trains. All random numbers are drawn as by the
transform that this one is made from, so that crops, flips and operations are the same.
"""

import random
from collections.abc import Callable
from copy import copy
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomHorizontalFlip

from rmt.data.jpeg import decode
from rmt.data.shifts import fast_operation
from rmt.data.transforms import MAX_ASPECT, ImageTransform, Normalize


class Uint8Transform:
    """Encoded or decoded image to uint8 (3, height, width).

    The rectangles of random erasing get the noise of `transform` as pixel values, rounded and clipped to 0…255.

    Args:
        transform: a result of `train_transform`, without padding.
    Raises:
        ValueError: `transform` pads images or crops.
    """

    takes_encoded = True

    def __init__(self, transform: ImageTransform):
        self.size: tuple[int, int] = transform.size
        _, pad, crop, augment, _, normalize, *erase = transform.transforms
        self.crop, *flips = crop.transforms
        if pad.side or not isinstance(self.crop, RandomResizedCropAndInterpolation):
            raise ValueError("padded images and padded crops are for Pillow")
        self.flips: list[tuple[float, int]] = [
            (flip.p, 3 if isinstance(flip, RandomHorizontalFlip) else 2) for flip in flips
        ]
        self.augment: list[Any] = [_with_fast_operations(step) for step in augment.transforms]
        self.normalize: Normalize = normalize
        self.erase: Callable[[Any], Any] | None = next(iter(erase), None)

    def __call__(self, source: bytes | Image.Image) -> Tensor:
        """uint8 (3, height, width), interleaved in memory, of the bytes of an image file or an RGB image.

        Raises `BadImage`.
        """
        image = self._flipped(self._cropped(_limit_aspect(decode(source))))
        if self.augment:
            # Pillow's tables are faster than the same operations on tensors.
            picture = Image.fromarray(image[0].permute(1, 2, 0).numpy())
            for augment in self.augment:
                picture = augment(picture)
            image = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
        if self.erase is not None:
            self.erase(_Pixels(image[0], self.normalize))
        return image[0]

    def _cropped(self, image: Tensor) -> Tensor:
        """uint8 (1, 3, height, width) of any memory format, from (H, W, 3)."""
        crop = self.crop
        top, left, height, width = crop.get_params(image.permute(2, 0, 1), crop.scale, crop.ratio)
        modes: Any = crop.interpolation
        mode = random.choice(modes) if isinstance(modes, tuple | list) else modes
        # The kernel for interleaved channels needs a batch dimension whose stride is that of an image.
        part = image[top : top + height, left : left + width][None].permute(0, 3, 1, 2)
        name = "bilinear" if mode == InterpolationMode.BILINEAR else "bicubic"
        return torch.nn.functional.interpolate(part, self.size, mode=name, antialias=True)

    def _flipped(self, image: Tensor) -> Tensor:
        for probability, axis in self.flips:
            if torch.rand(1) < probability:
                image = image.flip(axis)
        return image


class _Pixels:
    """A uint8 image (3, H, W) that timm's random erasing can write normalised values to."""

    dtype = torch.float32

    def __init__(self, image: Tensor, normalize: Normalize):
        self.image, self.normalize = image, normalize

    def size(self) -> torch.Size:
        return self.image.shape

    def __setitem__(self, where: Any, values: Tensor) -> None:
        self.image[where] = self.normalize.undo(values)


def _with_fast_operations(augment: Any) -> Any:
    """The same RandAugment, if it is one, with the operations of `rmt.data.shifts`."""
    if not hasattr(augment, "ops"):
        return augment
    augment = copy(augment)
    augment.ops = [copy(operation) for operation in augment.ops]
    for operation in augment.ops:
        operation.aug_fn = fast_operation(getattr(operation.aug_fn, "__name__", "")) or operation.aug_fn
    return augment


def _limit_aspect(image: Tensor) -> Tensor:
    """`LimitAspect` of (H, W, 3)."""
    height, width = image.shape[:2]
    longest = MAX_ASPECT * min(height, width)
    top, left = max(0, height - longest) // 2, max(0, width - longest) // 2
    return image[top : top + longest, left : left + longest]
