"""Transforms for semantic segmentation: MMSegmentation's ADE20K augmentation, as in the paper's Sec. 4.3.

Every draw comes from Python's global generator, which the loader seeds for each sample.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from rmt.data.segmentation.dataset import Pair
from rmt.data.segmentation.masks import IGNORE
from rmt.data.transforms import Normalize

_TRIES = 10  # crops drawn until one is varied enough
_BRIGHTNESS = 32.0  # largest shift, of 255
_CONTRAST = _SATURATION = (0.5, 1.5)
_HUE = 18 / 180  # largest shift, as a fraction of the colour circle


def fitted_size(size: tuple[int, int], long_side: float, short_side: float) -> tuple[int, int]:
    """The largest size (width, height) of the same aspect ratio with sides of at most `long_side` and `short_side`.

    A limit of 0 leaves the size. Each side has at least one pixel.
    """
    if not long_side or not short_side:
        return size
    factor = min(long_side / max(size), short_side / min(size))
    return max(1, int(size[0] * factor + 0.5)), max(1, int(size[1] * factor + 0.5))


@dataclass(frozen=True)
class SegmentationTrainTransform:
    """Sample transform of a `BatchLoader` over a `SegmentationSet`: a pair to an augmented crop.

    The steps: resize to fit long_side × short_side, both multiplied by a random ratio in `ratios`; rotate by up to
    `rotation` degrees; crop; horizontal flip with probability `flip`, vertical flip with probability `vertical_flip`;
    `photometric_distortion`, each with probability `distortion`; normalise; pad at the right and bottom to `crop`
    pixels. Padding and the corners of a rotated image are black, their masks 255.

    The crop is random. No class fills more than `max_share` of its labelled pixels, if one of ten crops has that. With
    probability `balanced` the crop contains a random pixel of a class drawn from those in the mask, instead.
    """

    crop: int
    long_side: int
    short_side: int
    ratios: tuple[float, float]
    max_share: float
    flip: float
    distortion: float
    mean: Sequence[float]
    std: Sequence[float]
    vertical_flip: float = 0.0
    rotation: float = 0.0
    balanced: float = 0.0

    def __call__(self, pair: Pair, index: int) -> dict[str, Tensor]:
        """`image` float32 (3, crop, crop) and `mask` uint8 (crop, crop)."""
        ratio = random.uniform(*self.ratios)
        size = fitted_size(pair.image.size, self.long_side * ratio, self.short_side * ratio)
        image = pair.image.resize(size, Image.Resampling.BILINEAR)
        labels = Image.fromarray(pair.mask).resize(size, Image.Resampling.NEAREST)
        if self.rotation:
            angle = random.uniform(-self.rotation, self.rotation)
            image = image.rotate(angle, Image.Resampling.BILINEAR)
            labels = labels.rotate(angle, Image.Resampling.NEAREST, fillcolor=IGNORE)
        mask = np.asarray(labels)
        left, top = self._crop_position(mask)
        mask = mask[top : top + self.crop, left : left + self.crop]
        image = image.crop((left, top, left + mask.shape[1], top + mask.shape[0]))
        if random.random() < self.flip:
            image, mask = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), mask[:, ::-1]
        # No draw where it is off, so that the draws after it stay those of recipes without it.
        if self.vertical_flip and random.random() < self.vertical_flip:
            image, mask = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM), mask[::-1]
        pixels = Normalize(self.mean, self.std)(pil_to_tensor(photometric_distortion(image, self.distortion)))
        whole = torch.zeros(3, self.crop, self.crop)
        whole[:, : mask.shape[0], : mask.shape[1]] = pixels
        whole_mask = torch.full((self.crop, self.crop), IGNORE, dtype=torch.uint8)
        whole_mask[: mask.shape[0], : mask.shape[1]] = torch.from_numpy(mask.copy())
        return {"image": whole, "mask": whole_mask}

    def _crop_position(self, mask: np.ndarray) -> tuple[int, int]:
        """Left and top of the crop, in pixels."""
        height, width = mask.shape
        if self.balanced and random.random() < self.balanced:
            return self._around_a_class(mask)
        for _ in range(_TRIES if self.max_share < 1 else 1):
            top = random.randint(0, max(height - self.crop, 0))
            left = random.randint(0, max(width - self.crop, 0))
            counts = np.bincount(mask[top : top + self.crop, left : left + self.crop].ravel(), minlength=IGNORE + 1)
            counts[IGNORE] = 0
            if (counts > 0).sum() > 1 and counts.max() < self.max_share * counts.sum():
                break
        return left, top

    def _around_a_class(self, mask: np.ndarray) -> tuple[int, int]:
        """Left and top of a random crop that contains a random pixel of a class that is as likely as any other."""
        height, width = mask.shape
        present = np.flatnonzero(np.bincount(mask.ravel(), minlength=IGNORE + 1)[:IGNORE])
        if not len(present):  # rotation can leave no labelled pixel
            return 0, 0
        pixels = np.flatnonzero(mask == random.choice(present.tolist()))
        row, column = divmod(random.choice(pixels.tolist()), width)
        top, left = (
            random.randint(max(0, place - self.crop + 1), max(0, min(place, side - self.crop)))
            for place, side in ((row, height), (column, width))
        )
        return left, top


def collate_crops(entries: list[dict[str, Tensor]], indices: list[int]) -> dict[str, Tensor]:
    """Collate training crops: `image` float32 (B, 3, crop, crop), `mask` int64 (B, crop, crop)."""
    images, masks = (torch.stack([entry[key] for entry in entries]) for key in ("image", "mask"))
    return {"image": images, "mask": masks.long()}


@dataclass(frozen=True)
class SegmentationEvalTransform:
    """Sample transform for evaluation: the image is resized to fit long_side × short_side, the mask is not."""

    long_side: int
    short_side: int

    def __call__(self, pair: Pair, index: int) -> dict[str, Tensor]:
        """`image` uint8 (3, h, w), `mask` uint8 (H, W) of the original size."""
        return {
            "image": resize_to_fit(pair.image, self.long_side, self.short_side),
            "mask": torch.from_numpy(pair.mask.copy()),
        }


def resize_to_fit(image: Image.Image, long_side: int, short_side: int) -> Tensor:
    """Resize an RGB image to fit long_side × short_side (see `fitted_size`): uint8 (3, h, w)."""
    width, height = fitted_size(image.size, long_side, short_side)
    return resize_to_size(image, (height, width))


def resize_to_size(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """Resize an RGB image to `size` = (height, width): uint8 (3, *size)."""
    resized = image if size == (image.height, image.width) else image.resize(size[::-1], Image.Resampling.BILINEAR)
    return pil_to_tensor(resized).contiguous()


def collate_lists(entries: list[dict[str, Tensor]], indices: list[int]) -> dict[str, list[Tensor]]:
    """Collate whole images of different sizes: lists `image` and `mask`."""
    return {key: [entry[key] for entry in entries] for key in ("image", "mask")}


def photometric_distortion(image: Image.Image, p: float) -> Image.Image:
    """Random brightness, contrast (before or after the colours), saturation and hue, each with probability `p`.

    It is MMSegmentation's `PhotoMetricDistortion`, not torchvision's: the draws and the arithmetic differ.
    """
    contrast_first = random.random() < 0.5
    image = _scaled_and_shifted(image, 1.0, random.uniform(-_BRIGHTNESS, _BRIGHTNESS) if _apply_with(p) else 0.0)
    contrast = random.uniform(*_CONTRAST) if _apply_with(p) else 1.0
    if contrast_first:
        image = _scaled_and_shifted(image, contrast, 0.0)
    saturation = random.uniform(*_SATURATION) if _apply_with(p) else 1.0
    hue = random.uniform(-_HUE, _HUE) if _apply_with(p) else 0.0
    if saturation != 1 or hue:
        hsv = np.asarray(image.convert("HSV")).astype(np.int16)
        hsv[..., 0] = (hsv[..., 0] + round(256 * hue)) % 256
        hsv[..., 1] = (hsv[..., 1] * saturation).clip(0, 255)
        image = Image.merge("HSV", [Image.fromarray(part.astype(np.uint8)) for part in np.moveaxis(hsv, 2, 0)])
        image = image.convert("RGB")
    return image if contrast_first else _scaled_and_shifted(image, contrast, 0.0)


def _apply_with(p: float) -> bool:
    return random.random() < p


def _scaled_and_shifted(image: Image.Image, factor: float, shift: float) -> Image.Image:
    """Every value times `factor` plus `shift`, clipped to 0…255."""
    if factor == 1 and not shift:
        return image
    table = np.clip(np.arange(256) * factor + shift, 0, 255).astype(int).tolist()
    return image.point(table * 3)
