"""Losses of semantic segmentation: cross-entropy, focal loss (Lin et al., 2017), Dice loss (V-Net, 2016)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IGNORE = 255
"""Label of pixels that are ignored in training and evaluation; the same as `IGNORE` in data/segmentation/masks.py."""


class SegmentationLoss(nn.Module):
    """Logits (B, K, H, W) and class indices (B, H, W), int64, to a loss; pixels of label 255 are ignored.

    Cross-entropy or focal loss, averaged over all pixels including the ignored ones, plus `dice_weight` times the Dice
    loss. The default is cross-entropy alone.

    Args:
        focal_gamma: γ of the focal loss, which multiplies the cross-entropy of a pixel by (1 − p)^γ, p being the
            probability of its class. 0: cross-entropy.
        dice_weight: weight of `dice_loss`; 0: none.
        class_weights: (K,) float32 factors of the cross-entropy of the pixels of each class, or None.
    """

    class_weights: Tensor | None

    def __init__(
        self, *, focal_gamma: float = 0.0, dice_weight: float = 0.0, class_weights: Tensor | None = None
    ) -> None:
        super().__init__()
        self.focal_gamma = focal_gamma
        self.dice_weight = dice_weight
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Returns the loss, 0-dim, of logits (B, K, H, W) and labels (B, H, W); 0 if all pixels are ignored."""
        loss = F.cross_entropy(logits, labels, self.class_weights, ignore_index=IGNORE, reduction="none")
        if self.focal_gamma:
            # Without the weights, the cross-entropy is −log p.
            plain = (
                loss
                if self.class_weights is None
                else F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
            )
            # The slope of a power below 1 is infinite at 0, where a confident network is right.
            missed = (-torch.expm1(-plain)).clamp(min=torch.finfo(plain.dtype).tiny)
            loss = missed**self.focal_gamma * loss
        total = loss.mean()
        return total + self.dice_weight * dice_loss(logits, labels) if self.dice_weight else total


def dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """1 − 2·Σ p·t / (Σ p + Σ t), averaged over the classes that occur in `labels`.

    p are the probabilities and t the one-hot labels. The sums run over the pixels of the batch that are not ignored, so
    a class counts as much as any other, however few its pixels.

    Args:
        logits: (B, K, H, W).
        labels: class indices (B, H, W), int64; 255 is ignored.
    """
    classes = logits.shape[1]
    labelled = labels != IGNORE
    index = labels.where(labelled, 0)
    probabilities = logits.float().softmax(1) * labelled[:, None]
    own = probabilities.gather(1, index[:, None]).flatten()  # of the pixel's class
    hits = own.new_zeros(classes).index_add(0, index.flatten(), own)
    pixels = own.new_zeros(classes).index_add(0, index.flatten(), labelled.flatten().to(own.dtype))
    scores = 2 * hits / (probabilities.sum((0, 2, 3)) + pixels).clamp(min=1e-6)
    occurs = (pixels > 0).to(own.dtype)
    return (occurs * (1 - scores)).sum() / occurs.sum().clamp(min=1)


def median_frequency_weights(pixels: Tensor, power: float = 1.0) -> Tensor:
    """Weights (K,) float32 from the numbers of pixels (K,) of the classes: (median of the numbers / each one)^power.

    Classes without pixels are left out of the median and have the weight 0 (no pixel has it).
    """
    counts = pixels.double()
    weights = (counts[counts > 0].median() / counts.clamp(min=1)) ** power
    return torch.where(counts > 0, weights, 0.0).float()
