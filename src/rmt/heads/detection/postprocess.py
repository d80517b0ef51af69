"""From the outputs of a network to detections: score threshold, non-maximum suppression, resizing, pasting masks."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import batched_nms

_BAND_PIXELS = 2**22  # of a mask that are sampled together


def at_least_float32(x: Tensor) -> Tensor:
    """Convert float16 and bfloat16 to float32: boxes in bfloat16 are off by pixels."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def filter_scores(scores: Tensor, threshold: float, limit: int | None = None) -> tuple[Tensor, Tensor]:
    """Return rows and columns of the scores (N, K) above the threshold, at most the `limit` highest ones."""
    row, column = torch.where(scores > threshold)
    if limit is not None and len(row) > limit:
        best = scores[row, column].topk(limit).indices
        row, column = row[best], column[best]
    return row, column


def nms(boxes: Tensor, labels: Tensor, scores: Tensor, *, threshold: float, limit: int) -> dict[str, Tensor]:
    """Non-maximum suppression among boxes (N, 4) of equal labels; keep at most `limit` boxes, highest score first.

    Boxes of zero width or height are removed before: clipping an anchor over the padding to the image leaves one.
    """
    valid = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    boxes, labels, scores = boxes[valid], labels[valid], scores[valid]
    keep = batched_nms(boxes, scores, labels, threshold)[:limit]
    return {"boxes": boxes[keep], "labels": labels[keep], "scores": scores[keep]}


def resize_detections(
    detections: Sequence[dict[str, Tensor]],
    from_sizes: Sequence[tuple[int, int]],
    to_sizes: Sequence[tuple[int, int]],
    mask_threshold: float | None,
    *,
    paste: bool = True,
) -> list[dict[str, Tensor]]:
    """Scale boxes from images of one size to another, and paste the masks of boxes into whole images.

    Args:
        detections: per image; boxes (N, 4), and optionally masks (N, 1, m, m) of probabilities.
        from_sizes, to_sizes: (height, width) per image.
        mask_threshold: probability from which a mask is True; None keeps probabilities.
        paste: otherwise masks are left as they are.
    Returns:
        new dicts with boxes (N, 4) and masks (N, 1, H, W).
    """
    results = []
    for detection, (from_height, from_width), (height, width) in zip(detections, from_sizes, to_sizes, strict=True):
        scale = detection["boxes"].new_tensor([width / from_width, height / from_height])
        result = detection | {"boxes": detection["boxes"] * scale.repeat(2)}
        if paste and "masks" in detection:
            result["masks"] = paste_masks(detection["masks"], result["boxes"], (height, width), mask_threshold)
        results.append(result)
    return results


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float | None) -> Tensor:
    """Paste the masks of boxes into the image: the inverse of aligned RoIAlign, bilinear, 0 outside the box.

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
    # One mask at a time, inside its box only, and a band of rows at a time: the sampling grid of a large photograph, or
    # those of N images, would take gigabytes.
    for mask, box, out in zip(masks, boxes, pasted, strict=True):
        x1, y1, x2, y2 = box.tolist()
        rows = slice(max(0, int(y1)), max(0, min(height, int(y2) + 1)))
        columns = slice(max(0, int(x1)), max(0, min(width, int(x2) + 1)))
        grid_x = (x[columns] - x1) / max(x2 - x1, 1e-6) * 2 - 1
        grid_y = (y[rows] - y1) / max(y2 - y1, 1e-6) * 2 - 1
        if not len(grid_x):
            continue
        band = max(1, _BAND_PIXELS // len(grid_x))
        for part, target in zip(grid_y.split(band), out[:, rows, columns].split(band, dim=1), strict=True):
            grid = torch.stack(torch.meshgrid(grid_x, part, indexing="xy"), dim=-1)
            values = F.grid_sample(mask[None], grid[None].to(mask.dtype), align_corners=False)[0]
            target.copy_(values if threshold is None else values >= threshold)
    return pasted
