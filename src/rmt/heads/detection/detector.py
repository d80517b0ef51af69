"""What RetinaNet and Mask R-CNN add to torchvision's meta-architectures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from rmt.errors import RMTError
from rmt.heads.detection.fpn import BackboneWithFPN
from rmt.heads.detection.options import DetectorOptions
from rmt.heads.detection.postprocess import resize_detections
from rmt.heads.detection.transform import check_targets
from rmt.heads.pyramid import Pyramid
from rmt.terminal import plural


class Detector:
    """Mixin for `torchvision.models.detection` networks: checks of the arguments, output sizes, loading a backbone."""

    backbone: BackboneWithFPN
    num_classes: int
    options: DetectorOptions
    head_name: str  # this and the next are set by `rmt.detector`, for model files
    head_args: dict[str, Any]
    mask_threshold: float | None = None  # see `resize_detections`
    training: bool

    def forward(
        self,
        images: list[Tensor],
        targets: list[dict[str, Tensor]] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
        paste: bool = True,
    ) -> Any:
        """Images, and in training targets, to losses or detections, see `rmt.detector`.

        Args:
            images: a list of (3, H, W), RGB in 0…1 or uint8, of any sizes.
            targets: in training, a dict for each image.
            sizes: (height, width) of the images that detections refer to, instead of `images`.
            paste: paste masks into whole images; otherwise they are those of the boxes, (N, 1, m, m) probabilities.
        """
        if sizes is not None and len(sizes) != len(images):
            raise RMTError(f"{plural(len(images), 'image')} but {plural(len(sizes), 'size')}")
        if self.training:
            if targets is None:
                raise RMTError("a detector in training mode needs targets; call .eval() for detections")
            check_targets(images, targets, self.num_classes)
            return super().forward(images, targets)  # type: ignore[misc]
        detections = super().forward(images, None)  # type: ignore[misc]
        image_sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        to_sizes = image_sizes if sizes is None else sizes
        return resize_detections(detections, image_sizes, to_sizes, self.mask_threshold, paste=paste)

    @property
    def pyramid(self) -> Pyramid:
        """The backbone and its norms."""
        return self.backbone.pyramid

    def load_backbone(self, source: str | Path | Mapping[str, Any]) -> list[str]:
        """Load a classifier, or the backbone of a detector or segmenter, ours or the authors'.

        See `Pyramid.load_backbone`.

        Returns:
            names of the pyramid's norms that the file does not contain; they keep their initial values.
        """
        return self.pyramid.load_backbone(source)
