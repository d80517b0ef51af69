"""Turn a list of images into a batch, and check the targets."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from rmt.errors import RMTError
from rmt.terminal import plural


class DetectionTransform(GeneralizedRCNNTransform):
    """Normalise images, and pad them with 0 on the right and below to a common multiple of `size_divisor`.

    Unlike torchvision's transform, it does not resize, because the data pipelines do. So boxes, in targets and in
    detections, are in pixels of the images that the detector is called with.

    Args:
        mean, std: of RGB values in 0…1.
        size_divisor: divides the height and width of the batch.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], size_divisor: int) -> None:
        super().__init__(0, 0, list(mean), list(std), size_divisible=size_divisor)

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
        return result  # `Detector.forward` resizes them, to sizes that are not passed here


def check_targets(images: list[Tensor], targets: list[dict[str, Tensor]], num_classes: int) -> None:
    """Raise RMTError unless every target has boxes of positive width and height, and as many labels from 0 to K − 1."""
    if len(images) != len(targets):
        raise RMTError(f"{plural(len(images), 'image')} but {plural(len(targets), 'target')}")
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
