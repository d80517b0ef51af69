"""Telling a network that learns from one that does not: is its accuracy more than guessing would give?"""

import math
from dataclasses import dataclass

import numpy as np

from rmt.recipes.recipe import ClassifyRecipe


@dataclass(frozen=True)
class MajorityBaseline:
    """What always naming the most frequent class would score on `images` images: `top1` in percent."""

    top1: float
    images: int
    classes: int

    @classmethod
    def of(cls, labels: np.ndarray, num_classes: int) -> "MajorityBaseline":
        """labels: (N,) int64 of the evaluation images."""
        counts = np.bincount(labels, minlength=num_classes)
        return cls(top1=100 * counts.max() / max(len(labels), 1), images=len(labels), classes=num_classes)

    @property
    def limit(self) -> float:
        """Accuracy in percent that luck alone hardly exceeds: the baseline and two standard errors."""
        share = self.top1 / 100
        return 100 * (share + 2 * math.sqrt(share * (1 - share) / max(self.images, 1)))


def chance_warning(
    recipe: ClassifyRecipe, baseline: MajorityBaseline, *, epoch: int, best: float, train_loss: float, lr: float
) -> str:
    """A line with numbers when the best accuracy is still what luck gives after a fifth of the run, else ""."""
    patience = max(3, math.ceil(recipe.epochs / 5))
    if baseline.classes < 2 or epoch < min(patience, recipe.epochs) or best > baseline.limit:
        return ""
    return (
        f"warning: accuracy is at chance: {best:.1f} % of {baseline.images} images after {epoch} epochs, where naming "
        f"one class always gives {baseline.top1:.1f} %. The training loss is {train_loss:.2f} (guessing: "
        f"{math.log(baseline.classes):.2f}), the peak learning rate {lr:.1e}. If the loss has not fallen, try "
        f"--lr {recipe.lr / 10:.0e} or --lr {recipe.lr * 10:.0e}; if it has, there are too few images: try --weights"
    )
