"""Instance masks: the head, what it is to predict, and its answers put into the image."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import roi_align


class MaskHead(nn.Sequential):
    """Pooled maps (R, C, m, m) to mask logits (R, K, 2m, 2m): 3×3 convolutions, ×2 deconvolution, 1×1 convolution."""

    def __init__(self, in_channels: int, num_classes: int, convs: int, width: int) -> None:
        super().__init__(
            MaskRCNNHeads(in_channels, [width] * convs, dilation=1),
            MaskRCNNPredictor(width if convs else in_channels, width, num_classes),
        )


def mask_targets(masks: Tensor, index: Tensor, boxes: Tensor, size: int) -> Tensor:
    """What lies in each box of the mask that belongs to it, on a grid of size × size.

    Args:
        masks: of the image's objects, (N, H, W), any dtype, 0 or 1.
        index: the object of each box, (R,).
        boxes: (R, 4), in the image's pixels.
    Returns:
        (R, size, size), 0 or 1 in the boxes' dtype.
    """
    rois = torch.cat([index[:, None].to(boxes.dtype), boxes], dim=1)
    crops = roi_align(masks[:, None].to(boxes.dtype), rois, (size, size), aligned=True)
    return (crops[:, 0] >= 0.5).to(boxes.dtype)


def mask_loss(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of the mask of each RoI's own class: logits (R, K, m, m), labels (R,), targets (R, m, m)."""
    if len(logits) == 0:
        return logits.sum() * 0  # not NaN, and every weight has its gradient
    own = logits[torch.arange(len(labels), device=labels.device), labels]
    return F.binary_cross_entropy_with_logits(own, targets)


def paste(masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float | None) -> Tensor:
    """Masks of boxes to masks of the image: the inverse of aligned pooling, bilinear, 0 outside the box.

    torchvision's `paste_masks_in_image` rounds boxes to whole pixels; this does not.

    Args:
        masks: probabilities (N, 1, m, m).
        boxes: (N, 4), in pixels.
        size: height and width of the image.
    Returns:
        (N, 1, H, W), boolean (probability ≥ threshold), or float if the threshold is None.
    """
    height, width = size
    y = torch.arange(height, dtype=boxes.dtype, device=boxes.device) + 0.5
    x = torch.arange(width, dtype=boxes.dtype, device=boxes.device) + 0.5
    pasted = masks.new_zeros((len(masks), 1, height, width), dtype=masks.dtype if threshold is None else torch.bool)
    # One by one, and no farther than the box: N whole images of sampling positions would take gigabytes.
    for mask, box, out in zip(masks, boxes, pasted, strict=True):
        x1, y1, x2, y2 = box.tolist()
        rows = slice(max(0, int(y1)), max(0, min(height, int(y2) + 1)))
        columns = slice(max(0, int(x1)), max(0, min(width, int(x2) + 1)))
        across = (x[columns] - x1) / max(x2 - x1, 1e-6) * 2 - 1
        down = (y[rows] - y1) / max(y2 - y1, 1e-6) * 2 - 1
        if len(across) and len(down):
            grid = torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=-1)
            values = F.grid_sample(mask[None], grid[None].to(mask.dtype), align_corners=False)[0]
            out[:, rows, columns] = values if threshold is None else values >= threshold
    return pasted
