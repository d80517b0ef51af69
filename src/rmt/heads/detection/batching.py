"""From a list of images to a batch, and from the network's boxes and masks back to the images'."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from rmt.errors import RMTError
from rmt.heads.detection.masks import paste


class Batching(GeneralizedRCNNTransform):
    """Normalise, pad right and below by 0 to a common multiple of `divisor`. Nothing is resized: the data pipelines do.

    So boxes, in targets and detections, are in the pixels of the images that the detector is given.

    Args:
        mean, std: of RGB values in 0…1.
        divisor: of the batch's height and width.
        num_classes: K, that labels stay under.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], divisor: int, num_classes: int) -> None:
        super().__init__(0, 0, list(mean), list(std), size_divisible=divisor)
        self.num_classes = num_classes

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[ImageList, list[dict[str, Tensor]] | None]:
        if targets is not None:
            check_targets(images, targets, self.num_classes)
        return super().forward(images, targets)

    def normalize(self, image: Tensor) -> Tensor:
        return super().normalize(image / 255 if image.dtype == torch.uint8 else image)

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        return image, target

    def postprocess(
        self,
        result: list[dict[str, Tensor]],
        image_shapes: list[tuple[int, int]],
        original_image_sizes: list[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        """Nothing: `place` follows the network, knowing the sizes that this signature has no room for."""
        return result


def place(
    detections: Sequence[dict[str, Tensor]],
    given: Sequence[tuple[int, int]],
    sizes: Sequence[tuple[int, int]],
    mask_threshold: float | None,
) -> list[dict[str, Tensor]]:
    """Boxes from the pixels of images of size `given` to those of `sizes`, and the masks of boxes into whole images.

    Args:
        detections: per image; boxes (N, 4), and masks (N, 1, m, m), of probabilities, where there are any.
        given, sizes: (height, width) per image.
        mask_threshold: masks become boolean at this probability; None leaves probabilities.
    Returns:
        the same with boxes (N, 4) and masks (N, 1, H, W); new dicts.
    """
    placed = []
    for found, (given_height, given_width), (height, width) in zip(detections, given, sizes, strict=True):
        scale = found["boxes"].new_tensor([width / given_width, height / given_height])
        moved = found | {"boxes": found["boxes"] * scale.repeat(2)}
        if "masks" in found:
            moved["masks"] = paste(found["masks"], moved["boxes"], (height, width), mask_threshold)
        placed.append(moved)
    return placed


def check_targets(images: list[Tensor], targets: list[dict[str, Tensor]], num_classes: int) -> None:
    """Raise RMTError unless every target has boxes of positive width and height, and as many labels under K."""
    if len(images) != len(targets):
        raise RMTError(f"{len(images)} images but {len(targets)} targets")
    for i, target in enumerate(targets):
        boxes, labels = target["boxes"], target["labels"]
        if boxes.ndim != 2 or boxes.shape[1] != 4 or len(labels) != len(boxes):
            shapes = f"boxes {tuple(boxes.shape)} and labels {tuple(labels.shape)}"
            raise RMTError(f"target {i} has {shapes} instead of (N, 4) and (N,)")
        empty = (boxes[:, 2:] <= boxes[:, :2]).any(dim=1)
        if empty.any():
            raise RMTError(f"target {i} has a box without width or height, {boxes[empty][0].tolist()}; drop it")
        wrong = labels[(labels < 0) | (labels >= num_classes)]
        if len(wrong):
            raise RMTError(f"target {i} has a label {int(wrong[0])}; labels run from 0 to {num_classes - 1}")
