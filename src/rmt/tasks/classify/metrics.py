"""Counting right answers over any number of batches and ranks: loss, top-1, top-5 and the confusion matrix."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric


class Scores(Metric):
    """Sums over an evaluation. `update(logits (B, K), labels (B,) int64)`; `compute()` gives a dict of floats."""

    full_state_update = False
    confusion: Tensor
    loss: Tensor
    top1: Tensor
    top5: Tensor
    count: Tensor

    def __init__(self, num_classes: int, confusion: bool = False) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.keep_confusion = confusion
        for name in ("top1", "top5", "count"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("loss", torch.zeros(()), dist_reduce_fx="sum")
        size = num_classes if confusion else 0
        self.add_state("confusion", torch.zeros(size, size, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        logits = logits.float()
        self.loss += F.cross_entropy(logits, labels, reduction="sum")
        best = logits.topk(min(5, self.num_classes), dim=1).indices  # (B, ≤5)
        hits = best == labels[:, None]
        self.top1 += hits[:, 0].sum()
        self.top5 += hits.any(1).sum()
        self.count += len(labels)
        if self.keep_confusion:
            pairs = labels * self.num_classes + best[:, 0]
            self.confusion += torch.bincount(pairs, minlength=self.num_classes**2).view_as(self.confusion)

    def compute(self) -> dict[str, float]:
        """Mean loss, top1 and top5 in percent, and the number of images."""
        count = max(int(self.count), 1)
        return {
            "loss": float(self.loss) / count,
            "top1": 100 * int(self.top1) / count,
            "top5": 100 * int(self.top5) / count,
            "images": int(self.count),
        }
