"""LV-ViT's augmentation: an image and its label map are flipped and moved together, and the image is cropped last.

The order is that of the authors' package: horizontal flip, RandAugment, random crop. Every random number is drawn once
and used for both. The map itself is not cropped: RoIAlign does that from the coordinates of the crop.
"""

import random
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import AutoAugment, RandAugment
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import MaybePILToTensor, RandomResizedCropAndInterpolation
from torch import Tensor
from torchvision.transforms import Compose, RandomHorizontalFlip
from torchvision.transforms.functional import resized_crop

from rmt.data.token_labels.geometry import LabelledImage, move_maps
from rmt.data.token_labels.label_maps import LabelMaps
from rmt.data.transforms import ImageTransform, LimitAspect, Normalize, PadTo

Box = tuple[float, float, float, float]


class TokenLabelTransform:
    """A training transform that also moves and returns the label map of the image; see `TargetTransform`.

    Args:
        transform: a result of `train_transform`; its crop is applied after the flip and RandAugment.
        maps: the label maps of the images.
        swap_axes: move maps by the other of the two shears, as LV-ViT's package does.
    Raises:
        ValueError: `transform` has a step that a label map cannot follow (padding, vertical flips, AugMix).
    """

    flip_probability: float

    def __init__(self, transform: ImageTransform, maps: LabelMaps, *, swap_axes: bool = False):
        self.size: tuple[int, int] = transform.size
        self.maps = maps
        self.flip_probability = 0.0
        self.augment: list[RandAugment | AutoAugment] = []
        self.finish: list[Any] = []  # what follows the crop: conversion to a tensor, normalisation, random erasing
        for step in _flat(deepcopy(transform)):
            if isinstance(step, RandomHorizontalFlip):
                self.flip_probability = step.p
            elif isinstance(step, RandAugment | AutoAugment):
                move_maps(step, swap_axes=swap_axes)
                self.augment.append(step)
            elif isinstance(step, RandomResizedCropAndInterpolation):
                self.crop = step
            elif isinstance(step, MaybePILToTensor | Normalize | RandomErasing):
                self.finish.append(step)
            elif not isinstance(step, LimitAspect) and not (isinstance(step, PadTo) and not step.side):
                raise ValueError(f"label maps cannot follow {step}")

    def __call__(self, image: Image.Image) -> Tensor:
        nothing = np.zeros((1, 1, 1), np.float16)
        return self._crop(self.move(label(image, nothing, nothing)))[0]

    def with_targets(self, image: Image.Image, index: int, name: str) -> tuple[Tensor, dict[str, Tensor]]:
        """The tensor, and `map_scores` float16 (h, w, k), `map_classes` (h, w, k), `box` float32 (4,).

        The box is the part of the moved map that the tensor shows: left, top, right and bottom as fractions of the
        width and height.
        """
        scores, classes = self.maps.load(index, image.size, name)
        labelled = self.move(label(image, scores, classes))
        tensor, box = self._crop(labelled)
        return tensor, {
            "map_scores": torch.from_numpy(labelled.scores),
            "map_classes": torch.from_numpy(labelled.classes),
            "box": torch.tensor(box),
        }

    def move(self, labelled: LabelledImage) -> LabelledImage:
        """Flip and RandAugment of image and map."""
        if torch.rand(1) < self.flip_probability:
            labelled = labelled.mirrored()
        for policy in self.augment:
            labelled = policy(labelled)
        return labelled

    def _crop(self, labelled: LabelledImage) -> tuple[Tensor, Box]:
        """timm's random crop, as a normalised tensor, and its box."""
        crop = self.crop
        down, across, height, width = crop.get_params(labelled.image, crop.scale, crop.ratio)
        filters = crop.interpolation
        interpolation = random.choice(filters) if isinstance(filters, list | tuple) else filters
        out: Any = resized_crop(labelled.image, down, across, height, width, list(crop.size), interpolation)
        for step in self.finish:
            out = step(out)
        (left, top), whole = labelled.corner, labelled.whole
        left, top = left + across, top + down
        return out, (left / whole[0], top / whole[1], (left + width) / whole[0], (top + height) / whole[1])


def label(image: Image.Image, scores: np.ndarray, classes: np.ndarray) -> LabelledImage:
    """An image with its map; the ends of a very long image are cut off by `LimitAspect`, its map still covers all."""
    part = LimitAspect()(image)
    corner = (image.width - part.width) // 2, (image.height - part.height) // 2
    return LabelledImage(part, scores, classes, image.size, corner)


def _flat(transform: Compose) -> list[Any]:
    return [inner for step in transform.transforms for inner in (_flat(step) if isinstance(step, Compose) else [step])]
