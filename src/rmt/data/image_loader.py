"""Batches of labelled images of one size, for training and evaluating a classifier."""

from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from rmt.data.loader import BatchLoader
from rmt.data.sets import ImageSet
from rmt.data.sources.shards import prefetch, shard_order


class Transform(Protocol):
    """Converts an image to a tensor; see `rmt.data.transforms`."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the tensor."""

    def __call__(self, image: Image.Image) -> Tensor:
        """RGB image to float32 (3, H, W)."""


@runtime_checkable
class TargetTransform(Transform, Protocol):
    """A transform that also returns tensors that belong to the image, such as its label map.

    Each is stacked, and is in the batch under its name.
    """

    def with_targets(self, image: Image.Image, index: int, name: str) -> tuple[Tensor, dict[str, Tensor]]:
        """RGB image number `index`, called `name`, to float32 (3, H, W) and its other tensors by name."""


class ImageLoader(BatchLoader):
    """A `BatchLoader` of the images of `image_set`, each through `transform`.

    A batch has `image`, float32 (B, 3, H, W), and `label`, int64 (B,), beside `index` and `bad` of a `BatchLoader`.
    """

    def __init__(self, image_set: ImageSet, transform: Transform, *, shuffle: bool, **options: Any):
        self.image_set = image_set
        if (order := shard_order(image_set)) is not None:
            options |= {"shard_order": order if shuffle else None, "prefetch": partial(prefetch, image_set)}
        # Decided here: checking a protocol at run time takes longer than cropping a small image.
        if isinstance(transform, TargetTransform):
            sample_transform = partial(_with_targets, image_set, transform)
        else:
            sample_transform = partial(_image_only, transform)
        collate = partial(_collate, image_set, transform.size)
        super().__init__(image_set, sample_transform, collate, shuffle=shuffle, **options)


def _image_only(transform: Transform, image: Image.Image, index: int) -> dict[str, Tensor]:
    return {"image": transform(image)}


def _with_targets(image_set: ImageSet, transform: TargetTransform, image: Image.Image, index: int) -> dict[str, Tensor]:
    tensor, targets = transform.with_targets(image, index, image_set.name(index))
    return {"image": tensor, **targets}


def _collate(
    image_set: ImageSet, size: tuple[int, int], entries: list[dict[str, Tensor]], indices: list[int]
) -> dict[str, Tensor]:
    labels = torch.from_numpy(image_set.labels[indices])
    if not entries:  # every image of the batch was unreadable
        return {"image": torch.empty((0, 3, *size)), "label": labels}
    return {**{key: torch.stack([entry[key] for entry in entries]) for key in entries[0]}, "label": labels}
