"""Find the crop and flip that a training transform applies to an image, to apply them to its label map as well."""

from typing import Any

import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torchvision.transforms import Compose, RandomHorizontalFlip, RandomVerticalFlip

from rmt.data.randomness import preserve_rng_state
from rmt.data.token_labels.label_maps import LabelMaps
from rmt.data.transforms import ImageTransform, LimitAspect, PadTo

Box = tuple[float, float, float, float]


def transform_with_crop(transform: ImageTransform, image: Image.Image) -> tuple[Tensor, Box, bool]:
    """What `transform(image)` returns, bit for bit, the part of the image that it shows, and whether that is mirrored.

    The part is given as left, top, right and bottom, in fractions of the width and height of the whole image.
    The crop and the flip are those of timm and torchvision; their parameters are found by drawing them twice from the
    same state of the generator. RandAugment's small rotations and shears after the crop are ignored: label maps do not
    follow them. Raises ValueError for steps that a label map cannot follow (padding, vertical flips).
    """
    left = top = 0
    shown = image.size  # width and height of the part, in pixels of the image
    flipped = False
    out: Any = image
    for step in _flat(transform):
        if isinstance(step, RandomVerticalFlip) or (isinstance(step, PadTo) and step.side):
            raise ValueError(f"label maps cannot follow {step}")
        if isinstance(step, RandomResizedCropAndInterpolation):
            with preserve_rng_state():
                down, across, height, width = step.get_params(out, step.scale, step.ratio)
            left, top, shown = left + across, top + down, (width, height)
        elif isinstance(step, RandomHorizontalFlip):
            with preserve_rng_state():
                flipped = bool(torch.rand(1) < step.p)
        before, out = out, step(out)
        if isinstance(step, LimitAspect):
            left, top, shown = (before.size[0] - out.size[0]) // 2, (before.size[1] - out.size[1]) // 2, out.size
    width, height = image.size
    return out, (left / width, top / height, (left + shown[0]) / width, (top + shown[1]) / height), flipped


def _flat(transform: Compose) -> list[Any]:
    return [inner for step in transform.transforms for inner in (_flat(step) if isinstance(step, Compose) else [step])]


class TokenLabelTransform:
    """A training transform that also returns the label map of the image; see `TargetTransform`."""

    def __init__(self, transform: ImageTransform, maps: LabelMaps):
        self.transform = transform
        self.maps = maps
        self.size = transform.size

    def __call__(self, image: Image.Image) -> Tensor:
        return self.transform(image)

    def with_targets(self, image: Image.Image, index: int, name: str) -> tuple[Tensor, dict[str, Tensor]]:
        """The tensor, and `map_scores` float16 (h, w, k), `map_classes` (h, w, k), `box` float32 (4,), `flipped`."""
        scores, classes = self.maps.load(index, image.size, name)
        tensor, box, flipped = transform_with_crop(self.transform, image)
        return tensor, {
            "map_scores": torch.from_numpy(scores),
            "map_classes": torch.from_numpy(classes),
            "box": torch.tensor(box),
            "flipped": torch.tensor(flipped),
        }
