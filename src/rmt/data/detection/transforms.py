"""Transforms for detection on torchvision's transforms v2: the 1× and 3×+MS schedules of the paper, Sec. 4.2.

Boxes and masks are transformed with the image. Every draw comes from torch's global generator, which the loader seeds
for each sample.
"""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from rmt.data.detection.dataset import DetectionSet

CROP_SHORT_SIDES = (400, 500, 600)
"""Short sides for the first resize of 3×+MS, in pixels; half of the images get it."""
CROP_SIDES = (384, 600)
"""Range of the sides of the crop that follows, in pixels."""
COLOUR_CHANGES: tuple[dict[str, float], ...] = (
    {"brightness": 0.125},
    {"contrast": 0.5},
    {"saturation": 0.5},
    {"hue": 0.05},
)
"""Largest changes of colour, as in segmentation: fractions, of the colour circle for the hue."""
_NO_LIMIT = 4200
"""Longest side before the crop, as in MMDetection."""


class RandomSidesCrop(v2.Transform):
    """Crop to a random height and width between `smallest` and `largest` pixels, at a random position.

    A side shorter than that is not cropped. The image may lose all its objects.
    """

    smallest: int
    largest: int

    def __init__(self, smallest: int, largest: int):
        super().__init__()
        self.smallest, self.largest = smallest, largest

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = F.get_size(flat_inputs[0])
        rows, columns = self._side(height), self._side(width)
        return {
            "top": int(torch.randint(0, height - rows + 1, ())),
            "left": int(torch.randint(0, width - columns + 1, ())),
            "height": rows,
            "width": columns,
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(F.crop, inpt, **params)

    def _side(self, side: int) -> int:
        return int(torch.randint(min(side, self.smallest), min(side, self.largest) + 1, ()))


class ShortestSize(v2.RandomShortestSize):
    """torchvision's, which makes a side of no pixels of an image much longer than wide."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        params = super().make_params(flat_inputs)
        return params | {"size": tuple(max(1, side) for side in params["size"])}


class ScaleJitter(v2.Transform):
    """Resize by a random factor from `smallest` to `largest`, and crop to the old size at a random position.

    An image that has become smaller is not padded; the image may lose all its objects.
    """

    smallest: float
    largest: float

    def __init__(self, smallest: float, largest: float):
        super().__init__()
        self.smallest, self.largest = smallest, largest

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = F.get_size(flat_inputs[0])
        factor = float(torch.empty(()).uniform_(self.smallest, self.largest))
        size = [max(1, round(height * factor)), max(1, round(width * factor))]
        rows, columns = min(height, size[0]), min(width, size[1])
        crop = {
            "top": int(torch.randint(0, size[0] - rows + 1, ())),
            "left": int(torch.randint(0, size[1] - columns + 1, ())),
            "height": rows,
            "width": columns,
        }
        return {"size": size, "crop": crop}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        resized = self._call_kernel(F.resize, inpt, params["size"], antialias=True)
        return self._call_kernel(F.crop, resized, **params["crop"])


def train_augmentation(
    short_sides: Sequence[int],
    long_side: int,
    *,
    flip: float = 0.5,
    random_crop: bool = False,
    vertical_flip: float = 0.0,
    rotation: float = 0.0,
    scales: tuple[float, float] = (1.0, 1.0),
    distortion: float = 0.0,
) -> v2.Transform:
    """Random flip and resize; with `random_crop` half of the images are also cropped, as in the 3×+MS schedule.

    Args:
        short_sides: the short side in pixels; with several values (multi-scale) one is drawn per image.
        long_side: upper limit of the long side.
        flip: probability of a horizontal flip.
        random_crop: see above.
        vertical_flip: probability of a vertical flip.
        rotation: largest angle in degrees, either way. Boxes become the upright ones around the rotated boxes.
        scales: range of the factor of `ScaleJitter`.
        distortion: probability of each change of brightness, contrast, saturation and hue.
    """
    steps: list[Any] = [v2.RandomHorizontalFlip(flip)]
    # A transform that is off draws no numbers, so that those of the paper's schedules stay as they are.
    if vertical_flip:
        steps.append(v2.RandomVerticalFlip(vertical_flip))
    if random_crop:
        first = ShortestSize(list(CROP_SHORT_SIDES), max_size=_NO_LIMIT)
        steps.append(v2.RandomApply([first, RandomSidesCrop(*CROP_SIDES)], p=0.5))
    steps.append(ShortestSize(list(short_sides), max_size=long_side))
    if rotation:
        steps.append(v2.RandomRotation([-rotation, rotation], v2.InterpolationMode.BILINEAR))
    if scales != (1, 1):
        steps.append(ScaleJitter(*scales))
    if distortion:
        steps += [v2.RandomApply([v2.ColorJitter(**change)], p=distortion) for change in COLOUR_CHANGES]
    if rotation or scales != (1, 1):
        steps.append(v2.ClampBoundingBoxes())
    return v2.Compose([*steps, v2.SanitizeBoundingBoxes(min_size=1)])


class DetectionTrainTransform:
    """Sample transform of a `BatchLoader` over a `DetectionSet`: augmented uint8 image (3, H, W) and its targets.

    The targets are `boxes` float32 (n, 4) as left, top, right, bottom in pixels of the tensor, `labels` int64 (n,)
    from 0, and `masks` uint8 (n, H, W) if the set has them.
    """

    def __init__(self, images: DetectionSet, augmentation: v2.Transform):
        self.images = images
        self.augmentation = augmentation

    def __call__(self, image: Image.Image, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        """RGB image number `index` and its targets."""
        objects = self.images.objects(index)
        box_format: Any = tv_tensors.BoundingBoxFormat.XYXY
        canvas = (image.height, image.width)
        target: dict[str, Any] = {
            "boxes": tv_tensors.BoundingBoxes(torch.from_numpy(objects.boxes), format=box_format, canvas_size=canvas),
            "labels": torch.from_numpy(objects.labels),
        }
        if objects.masks is not None:
            target["masks"] = tv_tensors.Mask(torch.from_numpy(objects.masks))
        pixels, target = self.augmentation(F.to_image(image), target)
        return pixels.as_subclass(Tensor), {key: value.as_subclass(Tensor) for key, value in target.items()}


class DetectionEvalTransform:
    """Resize an image to short side `short_side` and long side at most `long_side`: uint8 (3, H, W)."""

    def __init__(self, short_side: int, long_side: int):
        self.resize = ShortestSize([short_side], max_size=long_side)

    def __call__(self, image: Image.Image, index: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
        """The image, without targets: the evaluation has them."""
        return self.resize(F.to_image(image)).as_subclass(Tensor), {}


def collate_lists(entries: list[tuple[Tensor, dict[str, Tensor]]], indices: list[int]) -> dict[str, Any]:
    """Collate images of different sizes: lists `image` and `target`."""
    return {"image": [image for image, _ in entries], "target": [target for _, target in entries]}
