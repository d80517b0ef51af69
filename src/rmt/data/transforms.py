"""From an RGB image of any size to a normalised tensor: timm's transforms, made safe for odd shapes.

Before timm's part two steps of ours: a strip longer than `MAX_ASPECT` times its width loses its ends (else resizing
its short side to 224 could make billions of pixels of it), and with `pad_to` a small image is padded, not enlarged.
"""

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from rmt.errors import RMTError

MAX_ASPECT = 32

Size = int | tuple[int, int]
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageTransform:
    """Applies `steps` in turn; `size` is the (height, width) of the result, float32 (3, height, width)."""

    def __init__(self, size: Size, steps: Sequence[Callable]):
        self.size = size if isinstance(size, tuple) else (size, size)
        self.steps = tuple(steps)

    def __call__(self, image: Image.Image) -> Tensor:
        out: Any = image
        for step in self.steps:
            out = step(out)
        return out

    def __repr__(self) -> str:
        return "\n".join(map(repr, self.steps))


def train_transform(
    size: Size,
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    interpolation: str = "bicubic",
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    hflip: float = 0.5,
    vflip: float = 0.0,
    color_jitter: float = 0.0,
    auto_augment: str = "",
    erase_prob: float = 0.0,
    erase_mode: str = "pixel",
    pad_to: int = 0,
) -> ImageTransform:
    """Random crop of `scale` of the area and `ratio` of the sides, flips, RandAugment or colour jitter, erasing.

    `interpolation` is `bicubic`, `bilinear` or `random` (one of the two, per image). `auto_augment` is timm's
    description, such as `rand-m9-mstd0.5-inc1`; with it there is no colour jitter. Images smaller than `pad_to` are
    padded with black to it, at a random place. Raises `RMTError` on an `auto_augment` that timm does not know.
    """
    from timm.data import create_transform
    from timm.data.random_erasing import RandomErasing

    unknown = RMTError(f"the augmentation {auto_augment!r} is unknown; an example is rand-m9-mstd0.5-inc1")
    # timm passes over a section without a number (`rand-mhigh`), except the name of a list of operations (`tNAME`)
    if any(not re.search(r"^t|\d", section) for section in auto_augment.split("-")[1:]):
        raise unknown
    try:
        crop, augment, to_tensor = create_transform(
            size,
            is_training=True,
            separate=True,
            use_prefetcher=True,  # ends with uint8; the rest is ours, see Normalize
            mean=tuple(mean),  # the colour that RandAugment fills with
            interpolation=interpolation,
            scale=scale,
            ratio=ratio,
            hflip=hflip,
            vflip=vflip,
            color_jitter=color_jitter or None,  # type: ignore[arg-type]  # None is none
            auto_augment=auto_augment or None,
        )
    except (AssertionError, ValueError, KeyError, IndexError):
        if not auto_augment:
            raise
        raise unknown from None
    _mend_posterize(augment.transforms)
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
    """Resize the short side to size / crop_pct, and take the middle. Nothing is random.

    Images smaller than `pad_to` are padded with black to it, centred. The arguments are the `preprocessing` of a model
    file, so that `eval_transform(**preprocessing)` makes what the network was judged with.
    """
    from timm.data import create_transform

    size = size if isinstance(size, int) else (size[-2], size[-1])  # a JSON file gives a list
    steps = create_transform(
        size,
        is_training=False,
        use_prefetcher=True,
        interpolation=interpolation,
        crop_pct=crop_pct,
    )
    return ImageTransform(size, [LimitAspect(), PadTo(pad_to), steps, Normalize(mean, std)])


def _mend_posterize(part: object) -> None:
    """Let timm's posterize keep 0 bits of a pixel again, wherever it occurs in `part`.

    `rand-m9-mstd0.5-inc1` asks for 0 bits about once in 600 images. Pillow used to answer with black, which is what
    the published trainings saw; Pillow 13 raises.
    """
    if isinstance(part, list | tuple):
        for inner in part:
            _mend_posterize(inner)
    elif hasattr(part, "aug_fn"):
        if part.aug_fn.__name__ == "posterize":
            part.aug_fn = _posterize
    else:
        _mend_posterize([getattr(part, name) for name in ("ops", "policy") if hasattr(part, name)])


def _posterize(image: Image.Image, bits: int, **_: object) -> Image.Image:
    """Keep the highest `bits` bits (0…8) of every channel."""
    mask = 0xFF & ~(0xFF >> bits)
    return image.point([value & mask for value in range(256)] * len(image.getbands()))


class LimitAspect:
    """Cut the ends off an image whose long side is more than `MAX_ASPECT` times the short one."""

    def __call__(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        longest = MAX_ASPECT * min(width, height)
        if max(width, height) <= longest:
            return image
        left, top = max(0, width - longest) // 2, max(0, height - longest) // 2
        return image.crop((left, top, left + min(width, longest), top + min(height, longest)))

    def __repr__(self) -> str:
        return f"LimitAspect({MAX_ASPECT})"


class Normalize:
    """uint8 (3, H, W) to float32 (x/255 − mean)/std: torchvision's arithmetic without its checks of every image.

    Those cost more than a small image's augmentation.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        self.mean = torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1)
        self.std = torch.tensor(std, dtype=torch.float32).view(-1, 1, 1)

    def __call__(self, image: Tensor) -> Tensor:
        return image.to(torch.float32).div_(255).sub_(self.mean).div_(self.std)

    def __repr__(self) -> str:
        return f"Normalize(mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()})"


class PadTo:
    """Surround an image smaller than `side` with black, so that both sides have `side` pixels or more."""

    def __init__(self, side: int, at_random: bool = False):
        self.side = side
        self.at_random = at_random

    def __call__(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        across, down = max(0, self.side - width), max(0, self.side - height)
        if not across and not down:
            return image
        left, top = (random.randint(0, across), random.randint(0, down)) if self.at_random else (across // 2, down // 2)
        padded = Image.new(image.mode, (width + across, height + down))
        padded.paste(image, (left, top))
        return padded

    def __repr__(self) -> str:
        return f"PadTo({self.side}, at_random={self.at_random})"
