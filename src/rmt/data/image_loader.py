"""Batches of labelled images of one size: what a classifier trains on and is judged by."""

from functools import partial
from typing import Any, Protocol, TypedDict, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from rmt.data.loader import BatchLoader
from rmt.data.sets import ImageSet
from rmt.data.sources.shards import prefetch, shard_order


class Transform(Protocol):
    """Makes a tensor of an image; `rmt.data.transforms` has the usual ones."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of what it returns."""

    def __call__(self, image: Image.Image) -> Tensor:
        """RGB image to float32 (3, H, W)."""


@runtime_checkable
class LabelledTransform(Transform, Protocol):
    """A transform that also gives tensors which belong to the image, such as its label map.

    Each goes into the batch under its name, stacked.
    """

    def labelled(self, image: Image.Image, index: int, name: str) -> tuple[Tensor, dict[str, Tensor]]:
        """RGB image number `index`, called `name`, to float32 (3, H, W) and the tensors that belong to it."""


class Batch(TypedDict):
    image: Tensor  # float32 (B, 3, H, W)
    label: Tensor  # int64 (B,)
    index: Tensor  # int64 (B,): number of the sample in the image set
    bad: list[tuple[str, str]]  # (name, reason) of every image that could not be read


class ImageLoader(BatchLoader):
    """A `BatchLoader` of `Batch`es: the images of `image_set`, each through `transform`. Keywords as there."""

    def __init__(self, image_set: ImageSet, transform: Transform, *, shuffle: bool, **options: Any):
        self.image_set = image_set
        if (order := shard_order(image_set)) is not None:
            options |= {"shard_order": order if shuffle else None, "prefetch": partial(prefetch, image_set)}
        prepare, stack = _Prepare(image_set, transform), _Stack(image_set, transform.size)
        super().__init__(image_set, prepare, stack, shuffle=shuffle, **options)


class _Prepare:
    """An image to its tensors by name."""

    def __init__(self, image_set: ImageSet, transform: Transform):
        self.image_set = image_set
        self.transform = transform
        self.labelled = transform.labelled if isinstance(transform, LabelledTransform) else None

    def __call__(self, image: Image.Image, index: int) -> dict[str, Tensor]:
        if self.labelled is None:
            return {"image": self.transform(image)}
        tensor, extra = self.labelled(image, index, self.image_set.name(index))
        return {"image": tensor, **extra}


class _Stack:
    """The tensors of a batch's images, stacked by name, and their labels."""

    def __init__(self, image_set: ImageSet, size: tuple[int, int]):
        self.image_set = image_set
        self.size = size

    def __call__(self, entries: list[dict[str, Tensor]], indices: list[int]) -> dict[str, Tensor]:
        labels = torch.from_numpy(self.image_set.labels[indices])
        if not entries:  # every image of the batch was unreadable
            return {"image": torch.empty((0, 3, *self.size)), "label": labels}
        return {**{key: torch.stack([entry[key] for entry in entries]) for key in entries[0]}, "label": labels}
