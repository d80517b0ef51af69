"""How a segmenter sees an image: the augmentation and the resizing of METHOD 7.

Every draw comes from Python's global generator, which the loader seeds for each sample.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rmt.data.segmentation.dataset import Pair
from rmt.data.segmentation.masks import IGNORE

_TRIES = 10  # crops looked at until one is varied enough
_BRIGHTNESS = 32.0  # added or taken off, of 255
_CONTRAST = _SATURATION = (0.5, 1.5)
_HUE = 18 / 180  # of the colour circle, to either side


def fitted_size(size: tuple[int, int], long_side: float, short_side: float) -> tuple[int, int]:
    """The size (width, height) that fits into long_side × short_side, either way round, with the aspect kept.

    Sides of 0 leave the size. A strip keeps at least one pixel.
    """
    if not long_side or not short_side:
        return size
    factor = min(long_side / max(size), short_side / min(size))
    return max(1, int(size[0] * factor + 0.5)), max(1, int(size[1] * factor + 0.5))


@dataclass(frozen=True)
class SegmentationTrainTransform:
    """A pair to a training crop: `prepare` of a `BatchLoader` over a `SegmentationSet`.

    In this order: resized to fit long_side × short_side, both times a ratio drawn from `ratios`; a crop in which one
    class fills at most `max_share` of the labelled pixels, if one of ten has that; a flip; brightness, contrast,
    saturation and hue, each with chance `distortion`; normalised; padded at the right and below to `crop`, images with
    0, masks with 255.
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

    def __call__(self, pair: Pair, index: int) -> dict[str, Tensor]:
        """`image` float32 (3, crop, crop) and `mask` uint8 (crop, crop)."""
        ratio = random.uniform(*self.ratios)
        size = fitted_size(pair.image.size, self.long_side * ratio, self.short_side * ratio)
        image = pair.image.resize(size, Image.Resampling.BILINEAR)
        mask = np.asarray(Image.fromarray(pair.mask).resize(size, Image.Resampling.NEAREST))
        left, top = self._place(mask)
        mask = mask[top : top + self.crop, left : left + self.crop]
        image = image.crop((left, top, left + mask.shape[1], top + mask.shape[0]))
        if random.random() < self.flip:
            image, mask = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), mask[:, ::-1]
        pixels = normalize(to_tensor(photometric_distortion(image, self.distortion)), self.mean, self.std)
        whole = torch.zeros(3, self.crop, self.crop)
        whole[:, : mask.shape[0], : mask.shape[1]] = pixels
        labels = torch.full((self.crop, self.crop), IGNORE, dtype=torch.uint8)
        labels[: mask.shape[0], : mask.shape[1]] = torch.from_numpy(mask.copy())
        return {"image": whole, "mask": labels}

    def _place(self, mask: np.ndarray) -> tuple[int, int]:
        """Left and top of a crop."""
        height, width = mask.shape
        for _ in range(_TRIES if self.max_share < 1 else 1):
            top = random.randint(0, max(height - self.crop, 0))
            left = random.randint(0, max(width - self.crop, 0))
            counts = np.bincount(mask[top : top + self.crop, left : left + self.crop].ravel(), minlength=IGNORE + 1)
            counts[IGNORE] = 0
            if (counts > 0).sum() > 1 and counts.max() < self.max_share * counts.sum():
                break
        return left, top


def collate_crops(entries: list[dict[str, Tensor]], indices: list[int]) -> dict[str, Tensor]:
    """A batch of training crops: `image` float32 (B, 3, crop, crop), `mask` int64 (B, crop, crop)."""
    return {
        "image": torch.stack([entry["image"] for entry in entries]),
        "mask": torch.stack([entry["mask"] for entry in entries]).long(),
    }


@dataclass(frozen=True)
class SegmentationEvalTransform:
    """A pair as the evaluation sees it: `prepare` of a `BatchLoader`; the image fits long_side × short_side."""

    long_side: int
    short_side: int

    def __call__(self, pair: Pair, index: int) -> dict[str, Tensor]:
        """`image` uint8 (3, h, w), `mask` uint8 (H, W) of the original size."""
        return {
            "image": resize_to_fit(pair.image, self.long_side, self.short_side),
            "mask": torch.from_numpy(pair.mask.copy()),
        }


def resize_to_fit(image: Image.Image, long_side: int, short_side: int) -> Tensor:
    """uint8 (3, h, w): an RGB image made to fit long_side × short_side; see `fitted_size`."""
    size = fitted_size(image.size, long_side, short_side)
    return to_tensor(image if size == image.size else image.resize(size, Image.Resampling.BILINEAR))


def collate_lists(entries: list[dict[str, Tensor]], indices: list[int]) -> dict[str, list[Tensor]]:
    """A batch of whole images, each of its own size: lists under `image` and `mask`."""
    return {key: [entry[key] for entry in entries] for key in ("image", "mask")}


def photometric_distortion(image: Image.Image, chance: float) -> Image.Image:
    """Brightness, contrast (before or after the colours, at random), saturation and hue, each with that chance."""
    contrast_first = random.random() < 0.5
    image = _scaled_and_shifted(image, 1.0, random.uniform(-_BRIGHTNESS, _BRIGHTNESS) if _yes(chance) else 0.0)
    contrast = random.uniform(*_CONTRAST) if _yes(chance) else 1.0
    if contrast_first:
        image = _scaled_and_shifted(image, contrast, 0.0)
    saturation = random.uniform(*_SATURATION) if _yes(chance) else 1.0
    hue = random.uniform(-_HUE, _HUE) if _yes(chance) else 0.0
    if saturation != 1 or hue:
        hsv = np.asarray(image.convert("HSV")).astype(np.int16)
        hsv[..., 0] = (hsv[..., 0] + round(256 * hue)) % 256
        hsv[..., 1] = (hsv[..., 1] * saturation).clip(0, 255)
        image = Image.merge("HSV", [Image.fromarray(part.astype(np.uint8)) for part in np.moveaxis(hsv, 2, 0)])
        image = image.convert("RGB")
    return image if contrast_first else _scaled_and_shifted(image, contrast, 0.0)


def _yes(chance: float) -> bool:
    return random.random() < chance


def _scaled_and_shifted(image: Image.Image, factor: float, shift: float) -> Image.Image:
    """Every value times `factor` plus `shift`, cut to 0…255."""
    if factor == 1 and not shift:
        return image
    table = np.clip(np.arange(256) * factor + shift, 0, 255).astype(int).tolist()
    return image.point(table * 3)


def to_tensor(image: Image.Image) -> Tensor:
    """uint8 (3, H, W)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def normalize(pixels: Any, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 (…, 3, H, W) to float32 (x/255 − mean)/std."""
    shape = (-1, 1, 1)
    middle, spread = (torch.tensor(values, device=pixels.device).view(shape) for values in (mean, std))
    return (pixels.float() / 255 - middle) / spread
