"""Warning of a network that does not learn: its accuracy is no better than that of a constant prediction."""

import math
from dataclasses import dataclass

import numpy as np

from rmt.recipes import ClassifyRecipe
from rmt.terminal import plural


@dataclass(frozen=True)
class MajorityBaseline:
    """The accuracy of always predicting the most frequent class: `score` in percent, on `images` images."""

    score: float
    images: int
    classes: int

    @classmethod
    def of(cls, labels: np.ndarray, num_classes: int, *, by_recall: bool = False) -> "MajorityBaseline":
        """labels: (N,) int64 of the evaluation images. With `by_recall` the score is the mean recall of the classes."""
        counts = np.bincount(labels, minlength=num_classes)
        share = 1 / max((counts > 0).sum(), 1) if by_recall else counts.max() / max(len(labels), 1)
        return cls(score=100 * float(share), images=len(labels), classes=num_classes)

    @property
    def limit(self) -> float:
        """The baseline plus two standard errors, in percent: random predictions rarely exceed it."""
        share = self.score / 100
        return 100 * (share + 2 * math.sqrt(share * (1 - share) / max(self.images, 1)))


def baseline_warning(
    recipe: ClassifyRecipe, baseline: MajorityBaseline, *, epoch: int, best: float, train_loss: float, lr: float
) -> str:
    """Returns a warning when the best accuracy is within the baseline's limit after a fifth of the run, else ""."""
    patience = max(3, math.ceil(recipe.epochs / 5))
    if baseline.classes < 2 or epoch < min(patience, recipe.epochs) or best > baseline.limit:
        return ""
    return (
        f"warning: accuracy is no better than the baseline: {best:.1f} % of {plural(baseline.images, 'image')} after "
        f"{plural(epoch, 'epoch')}, where always predicting one class gives {baseline.score:.1f} %. "
        f"The training loss is {train_loss:.2f} (uniform predictions: {math.log(baseline.classes):.2f}), "
        f"the peak learning rate {lr:.1e}. If the loss has not fallen, "
        f"try --lr {recipe.lr / 10:.0e} or --lr {recipe.lr * 10:.0e}; if it has, too few images: try --weights"
    )
