"""Loss and accuracy over any number of batches and processes."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric


class ClassificationMetrics(Metric):
    """Mean loss, top-1 and top-5 accuracy, macro recall. `update(logits (B, K), labels (B,) int64)`.

    Hits are counted as integers, which torchmetrics' MulticlassAccuracy divides in float32.
    """

    full_state_update: bool | None = False
    loss: Tensor
    top1: Tensor
    top5: Tensor
    count: Tensor
    hits: Tensor
    images: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        for name in ("top1", "top5", "count"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        for name in ("hits", "images"):  # of each class
            self.add_state(name, torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("loss", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        self.loss += F.cross_entropy(logits.float(), labels, reduction="sum")
        hits = top5(logits) == labels[:, None]
        self.top1 += hits[:, 0].sum()
        self.top5 += hits.any(1).sum()
        self.count += len(labels)
        classes = len(self.images)
        self.images += torch.bincount(labels, minlength=classes)
        self.hits += torch.bincount(labels[hits[:, 0]], minlength=classes)

    def compute(self) -> dict[str, float]:
        """loss; top1, top5 and macro_recall (over the classes that occur) in percent; images, their number."""
        count = max(int(self.count), 1)
        occurs = self.images > 0
        recalls = self.hits[occurs].cpu().double() / self.images[occurs].cpu()  # MPS has no float64
        return {
            "loss": float(self.loss) / count,
            "top1": 100 * int(self.top1) / count,
            "top5": 100 * int(self.top5) / count,
            "macro_recall": 100 * float(recalls.mean()) if len(recalls) else 0.0,
            "images": int(self.count),
        }


def top5(logits: Tensor) -> Tensor:
    """The five likeliest classes, or all where there are fewer: logits (B, K) to int64 (B, ≤5), likeliest first."""
    return logits.float().topk(min(5, logits.shape[1]), dim=1).indices
