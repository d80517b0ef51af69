"""Mask head of Mask R-CNN and Cascade Mask R-CNN, its targets and its loss."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import roi_align

MASK_ROI_SIZE = 14  # of the pooled feature maps


class MaskHead(nn.Sequential):
    """Pooled feature maps (R, C, m, m) to mask logits (R, K, 2m, 2m): 3×3 convolutions, ×2 deconvolution, 1×1."""

    def __init__(self, in_channels: int, num_classes: int, convs: int, width: int) -> None:
        super().__init__(
            MaskRCNNHeads(in_channels, [width] * convs, dilation=1),
            MaskRCNNPredictor(width if convs else in_channels, width, num_classes),
        )


def mask_targets(masks: Tensor, index: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Crop to each box the mask of the object that it is assigned to, and resize it to size × size.

    Args:
        masks: of the objects in the image, (N, H, W), any dtype, 0 or 1.
        index: the object of each box, (R,).
        boxes: (R, 4), in pixels of the image.
    Returns:
        (R, size, size), 0 or 1 in the dtype of the boxes.
    """
    rois = torch.cat([index[:, None].to(boxes.dtype), boxes], dim=1)
    crops = roi_align(masks[:, None].to(boxes.dtype), rois, (size, size), aligned=True)
    return (crops[:, 0] >= 0.5).to(boxes.dtype)


def mask_loss(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of the mask of the true class: logits (R, K, m, m), labels (R,), targets (R, m, m)."""
    if len(logits) == 0:
        return logits.sum() * 0  # not NaN, and every parameter gets a gradient
    own = logits[torch.arange(len(labels), device=labels.device), labels]
    return F.binary_cross_entropy_with_logits(own, targets)
