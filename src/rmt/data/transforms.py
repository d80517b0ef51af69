"""Transforms for classification: RGB image of any size to a normalised tensor, by timm's transforms.

Two steps come first: an image whose long side is more than `MAX_ASPECT` times the short one is cropped (resizing its
short side to 224 could otherwise give billions of pixels), and with `pad_to` a small image is padded, not enlarged.
"""

import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import Compose

from rmt.errors import RMTError

MAX_ASPECT = 32

Size = int | tuple[int, int]
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageTransform(Compose):
    """Applies `steps` one after another; the result is float32 (3, height, width) with `size` = (height, width)."""

    def __init__(self, size: Size, steps: Sequence[Callable[[Any], Any]]):
        super().__init__(steps)
        self.size: tuple[int, int] = size if isinstance(size, tuple) else (size, size)


def train_transform(
    size: Size,
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    interpolation: str = "bicubic",
    auto_augment: str = "",
    erase_prob: float = 0.0,
    erase_mode: str = "pixel",
    pad_to: int = 0,
    crop_padding: int = 0,
    **options: Any,
) -> ImageTransform:
    """Random crop, flips, RandAugment or colour jitter, normalisation, random erasing.

    Args:
        size: side of the result, or (height, width).
        mean, std: of the normalisation, for values in 0…1.
        interpolation: `bicubic`, `bilinear`, or `random` (one of the two per image).
        auto_augment: timm's description of the policy, such as `rand-m9-mstd0.5-inc1`.
        erase_prob, erase_mode: probability and mode of timm's random erasing.
        pad_to: smaller images are padded to this size with black, at a random position.
        crop_padding: crop by `PaddedRandomCrop` with this padding, not by timm's random resized crop.
        options: more arguments of timm's `create_transform`: `scale` and `ratio`, the ranges of the area (relative to
            the image, 0.08 to 1) and aspect ratio (3/4 to 4/3) of the crop; `hflip` (0.5) and `vflip` (0), the
            probabilities of a horizontal and a vertical flip; `color_jitter`, the strength of the colour jitter (none),
            unused with `auto_augment`.
    Raises:
        RMTError: timm does not know `auto_augment`.
    """
    from timm.data import create_transform
    from timm.data.random_erasing import RandomErasing

    unknown = RMTError(f"the augmentation {auto_augment!r} is unknown; an example is rand-m9-mstd0.5-inc1")
    # timm ignores a section without a number (`rand-mhigh`), except the name of a list of operations (`tNAME`)
    if any(not re.search(r"^t|\d", section) for section in auto_augment.split("-")[1:]):
        raise unknown
    try:
        crop, augment, to_tensor = create_transform(
            size,
            is_training=True,
            separate=True,
            use_prefetcher=True,  # ends with uint8, see Normalize
            mean=tuple(mean),  # the colour that RandAugment fills with
            interpolation=interpolation,
            auto_augment=auto_augment or None,
            **{"color_jitter": None} | options,
        )
    except (AssertionError, ValueError, KeyError, IndexError):
        if not auto_augment:
            raise
        raise unknown from None
    _allow_posterize_0(augment.transforms)
    if crop_padding:
        height, width = size if isinstance(size, tuple) else (size, size)
        crop.transforms[0] = PaddedRandomCrop((height, width), crop_padding, interpolation)
    steps = [LimitAspect(), PadTo(pad_to, at_random=True), crop, augment, to_tensor, Normalize(mean, std)]
    if erase_prob:
        steps.append(RandomErasing(erase_prob, mode=erase_mode, device="cpu"))
    return ImageTransform(size, steps)


def eval_transform(
    size: Size,
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    interpolation: str = "bicubic",
    crop_pct: float = 0.875,
    pad_to: int = 0,
) -> ImageTransform:
    """Resize the short side to size / crop_pct, crop the centre, normalise.

    Images smaller than `pad_to` are padded with black, centred. The arguments are the `preprocessing` of a model file:
    `eval_transform(**preprocessing)` is the transform that the network was evaluated with.
    """
    from timm.data import create_transform

    size = size if isinstance(size, int) else (size[-2], size[-1])  # a JSON file gives a list
    steps = create_transform(
        size, is_training=False, use_prefetcher=True, interpolation=interpolation, crop_pct=crop_pct
    )
    return ImageTransform(size, [LimitAspect(), PadTo(pad_to), steps, Normalize(mean, std)])


def shown_part(
    image_size: tuple[int, int], size: Size, *, crop_pct: float = 0.875, pad_to: int = 0, **_: Any
) -> tuple[float, float, float, float]:
    """The part of an image (width, height) that `eval_transform` with these arguments keeps: left, top, right, bottom.

    In pixels of the image; it lies around the centre and reaches beyond the image where that is padded.
    """
    height, width = (size, size) if isinstance(size, int) else (size[-2], size[-1])
    limit = MAX_ASPECT * min(image_size)
    across, down = (max(min(side, limit), pad_to) for side in image_size)
    pixels = min(across / math.floor(width / crop_pct), down / math.floor(height / crop_pct))  # for one of the result
    left, top = (image_size[0] - width * pixels) / 2, (image_size[1] - height * pixels) / 2
    return left, top, left + width * pixels, top + height * pixels


def _allow_posterize_0(part: object) -> None:
    """Let timm's posterize operations in `part` accept 0 bits.

    `rand-m9-mstd0.5-inc1` uses 0 bits about once in 600 images. Pillow used to return a black image, which published
    trainings had; Pillow 13 raises.
    """
    if isinstance(part, Compose):
        part = part.transforms
    if isinstance(part, list | tuple):
        for inner in part:
            _allow_posterize_0(inner)
    elif hasattr(part, "aug_fn"):
        if part.aug_fn.__name__ == "posterize":
            part.aug_fn = _posterize
    else:
        _allow_posterize_0([getattr(part, name) for name in ("ops", "policy") if hasattr(part, name)])


def _posterize(image: Image.Image, bits: int, **_: object) -> Image.Image:
    """Keep the highest `bits` bits (0…8) of every channel."""
    mask = 0xFF & ~(0xFF >> bits)
    return image.point([value & mask for value in range(256)] * len(image.getbands()))


@dataclass(frozen=True)
class LimitAspect:
    """Crop the ends of an image whose long side is more than `MAX_ASPECT` times the short one."""

    def __call__(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        longest = MAX_ASPECT * min(width, height)
        if max(width, height) <= longest:
            return image
        left, top = max(0, width - longest) // 2, max(0, height - longest) // 2
        return image.crop((left, top, left + min(width, longest), top + min(height, longest)))


class Normalize:
    """uint8 (3, H, W) to float32 (x/255 − mean)/std.

    It is torchvision's arithmetic without its checks, which take longer than augmenting a small image.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        self.mean, self.std = (torch.tensor(v, dtype=torch.float32).view(-1, 1, 1) for v in (mean, std))

    def __call__(self, image: Tensor) -> Tensor:
        return image.to(torch.float32).div_(255).sub_(self.mean).div_(self.std)

    def batch(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) of any memory format to contiguous float32, on the device of the images."""
        if self.mean.device != images.device:
            self.mean, self.std = self.mean.to(images.device), self.std.to(images.device)
        return self(images.contiguous())

    def undo(self, image: Tensor) -> Tensor:
        """The reverse: float32 (…, 3, H, W) to uint8, rounded and clipped to 0…255."""
        return image.mul(self.std).add_(self.mean).mul_(255).round_().clamp_(0, 255).to(torch.uint8)

    def __repr__(self) -> str:
        return f"Normalize(mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()})"


@dataclass(frozen=True)
class PadTo:
    """Pad an image with black so that both sides have at least `side` pixels, at the centre or at a random position."""

    side: int
    at_random: bool = False

    def __call__(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        across, down = max(0, self.side - width), max(0, self.side - height)
        if not across and not down:
            return image
        left, top = (random.randint(0, across), random.randint(0, down)) if self.at_random else (across // 2, down // 2)
        return ImageOps.expand(image, (left, top, across - left, down - top))


_RESAMPLING = {
    "bicubic": (Image.Resampling.BICUBIC,),
    "bilinear": (Image.Resampling.BILINEAR,),
    "random": (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC),
}


@dataclass(frozen=True)
class PaddedRandomCrop:
    """Crop a random region of `size` = (height, width) from an image with a black border of `padding` pixels.

    The usual augmentation of small images such as those of CIFAR-10. An image of another size is first resized so that
    it covers `size` and keeps its aspect ratio, as in evaluation with `crop_pct=1`.
    """

    size: tuple[int, int]
    padding: int
    interpolation: str = "bicubic"

    def __call__(self, image: Image.Image) -> Image.Image:
        height, width = self.size
        scale = max(height / image.height, width / image.width)
        if scale != 1:
            across, down = max(width, round(scale * image.width)), max(height, round(scale * image.height))
            image = image.resize((across, down), random.choice(_RESAMPLING[self.interpolation]))
        left = random.randint(-self.padding, image.width - width + self.padding)
        top = random.randint(-self.padding, image.height - height + self.padding)
        return image.crop((left, top, left + width, top + height))  # black outside of the image
