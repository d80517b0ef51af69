"""Which of many boxes are the answer."""

import torch
from torch import Tensor
from torchvision.ops import batched_nms


def above(scores: Tensor, threshold: float, limit: int | None = None) -> tuple[Tensor, Tensor]:
    """Rows and columns of the scores (N, K) above the threshold, of more than `limit` the highest ones."""
    row, column = torch.where(scores > threshold)
    if limit is not None and len(row) > limit:
        best = scores[row, column].topk(limit).indices
        row, column = row[best], column[best]
    return row, column


def best_boxes(boxes: Tensor, labels: Tensor, scores: Tensor, *, overlap: float, limit: int) -> dict[str, Tensor]:
    """Non-maximum suppression among boxes (N, 4) of one label, then at most `limit`, the best first.

    Boxes without width or height go first: an anchor over the padding ends as one when it is clipped to the image.
    """
    real = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    boxes, labels, scores = boxes[real], labels[real], scores[real]
    keep = batched_nms(boxes, scores, labels, overlap)[:limit]
    return {"boxes": boxes[keep], "labels": labels[keep], "scores": scores[keep]}
