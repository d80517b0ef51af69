"""Batches of labelled images of one size, for training and evaluating a classifier."""

from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from rmt.data.images import BadImage
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


class EncodedTransform(Protocol):
    """Decodes an image itself; see `rmt.data.uint8_transforms`."""

    takes_encoded: bool
    size: tuple[int, int]

    def __call__(self, source: bytes | Image.Image) -> Tensor:
        """Bytes of an image file, or RGB image, to uint8 (3, H, W), interleaved in memory. Raises `BadImage`."""


class ImageLoader(BatchLoader):
    """A `BatchLoader` of the images of `image_set`, each through `transform`.

    `transform` is a `Transform`, `TargetTransform` or `EncodedTransform`.
    A batch has `image`, (B, 3, H, W), and `label`, int64 (B,), beside `index` and `bad` of a `BatchLoader`. The images
    are normalised float32, or uint8 if the transform decodes: to be normalised on the device by `Normalize.batch`.
    """

    def __init__(self, image_set: ImageSet, transform: Any, *, shuffle: bool, **options: Any):
        self.image_set = image_set
        samples: Any = image_set
        if (order := shard_order(image_set)) is not None:
            options |= {"shard_order": order if shuffle else None, "prefetch": partial(prefetch, image_set)}
        # Decided here: checking a protocol at run time takes longer than cropping a small image.
        if getattr(transform, "takes_encoded", False):
            samples, sample_transform = _Sources(image_set), partial(_decoded, image_set, transform)
        elif isinstance(transform, TargetTransform):
            sample_transform = partial(_with_targets, image_set, transform)
        else:
            sample_transform = partial(_image_only, transform)
        collate = partial(_collate, image_set, transform.size)
        super().__init__(samples, sample_transform, collate, shuffle=shuffle, **options)


class _Sources:
    """The images of a set before decoding."""

    def __init__(self, image_set: ImageSet):
        self.load, self.name = image_set.source, image_set.name
        self._count = len(image_set)

    def __len__(self) -> int:
        return self._count


def _decoded(
    image_set: ImageSet, transform: EncodedTransform, source: bytes | Image.Image, index: int
) -> dict[str, Tensor]:
    try:
        return {"image": transform(source)}
    except BadImage as error:
        raise BadImage(image_set.name(index), error.reason) from None


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
    batch = {key: torch.stack([entry[key] for entry in entries]) for key in entries[0] if key != "image"}
    images = [entry["image"] for entry in entries]
    if images[0].dtype == torch.uint8:  # interleaved channels stay so: separating them takes longer than copying
        batch["image"] = torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)
    else:
        batch["image"] = torch.stack(images)
    return {**batch, "label": labels}
