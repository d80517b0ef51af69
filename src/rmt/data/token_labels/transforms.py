"""Which part of an image a training transform shows: the same crop and flip can then be applied to its label map."""

import random
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torchvision.transforms import Compose, RandomHorizontalFlip, RandomVerticalFlip

from rmt.data.token_labels.label_maps import LabelMaps
from rmt.data.transforms import ImageTransform, LimitAspect, PadTo


@dataclass(frozen=True)
class View:
    """What a transform showed of an image.

    box: left, top, right and bottom as fractions of the whole image's width and height.
    flipped: whether the shown part was then mirrored left to right.
    """

    box: tuple[float, float, float, float]
    flipped: bool


def show(transform: ImageTransform, image: Image.Image) -> tuple[Tensor, View]:
    """What `transform(image)` returns, to the bit, and what part of the image that was.

    The crop and the flip are timm's and torchvision's own; what they draw is found by drawing it twice from the same
    state of the generator. RandAugment's small rotations and shears after the crop are not part of the view: label
    maps do not follow them. Raises ValueError on steps whose effect cannot be told (padding, vertical flips).
    """
    whole = image.size
    left = top = 0
    shown = image.size  # width and height of the part that is left, in the image's own pixels
    flipped = False
    out: Any = image
    for step in _flat(transform.steps):
        before = out
        if isinstance(step, LimitAspect):
            out = step(out)
            left, top = (before.size[0] - out.size[0]) // 2, (before.size[1] - out.size[1]) // 2
            shown = out.size
        elif isinstance(step, RandomResizedCropAndInterpolation):
            state = random.getstate()
            down, across, height, width = step.get_params(out, step.scale, step.ratio)
            random.setstate(state)
            out = step(out)
            left, top, shown = left + across, top + down, (width, height)
        elif isinstance(step, RandomHorizontalFlip):
            generator = torch.get_rng_state()
            flipped = bool(torch.rand(1) < step.p)
            torch.set_rng_state(generator)
            out = step(out)
        elif isinstance(step, RandomVerticalFlip) or (isinstance(step, PadTo) and step.side):
            raise ValueError(f"label maps cannot follow {step}")
        else:
            out = step(out)
    box = (left / whole[0], top / whole[1], (left + shown[0]) / whole[0], (top + shown[1]) / whole[1])
    return out, View(box, flipped)


def _flat(steps: Any) -> list[Any]:
    return [inner for step in steps for inner in (_flat(step.transforms) if isinstance(step, Compose) else [step])]


class TokenLabelTransform:
    """A training transform that hands out the label map of each image beside it; see `TargetTransform`."""

    def __init__(self, transform: ImageTransform, maps: LabelMaps):
        self.transform = transform
        self.maps = maps
        self.size = transform.size

    def __call__(self, image: Image.Image) -> Tensor:
        return self.transform(image)

    def with_targets(self, image: Image.Image, index: int, name: str) -> tuple[Tensor, dict[str, Tensor]]:
        """The tensor, and `map_scores` float16 (h, w, k), `map_classes` (h, w, k), `box` float32 (4,), `flipped`."""
        scores, classes = self.maps.load(index, image.size, name)
        tensor, view = show(self.transform, image)
        return tensor, {
            "map_scores": torch.from_numpy(scores),
            "map_classes": torch.from_numpy(classes),
            "box": torch.tensor(view.box),
            "flipped": torch.tensor(view.flipped),
        }
