"""The arithmetic of LV-ViT's token labelling: from label maps to targets, MixToken, and the loss of both heads."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

STEM_TOKENS_PER_CELL = 8
"""Stem tokens (stride 4) along a side of a cell of the last stage's grid (stride 32)."""

_MAX_DENSE_VALUES = 2**25
"""Most float32 values (128 MB) of the dense maps that are pooled at once."""


def pool_maps(
    scores: Tensor, classes: Tensor, box: Tensor, num_classes: int, grid: tuple[int, int], *, swap_axes: bool = False
) -> tuple[Tensor, Tensor]:
    """The targets of a batch: the logits of each map over its image's crop, pooled by RoIAlign, then softmax.

    The logit of a class that is not stored is 0, so a crop without any score has a uniform target. Only the classes
    that a map contains are pooled. This is exact, because RoIAlign treats each class alone, and takes less memory than
    a map of all classes: at most 128 MB for the maps pooled at once, beside the result.

    Args:
        scores: logits (B, h, w, k) of the k stored classes of each cell of the map.
        classes: their classes, integers (B, h, w, k).
        box: float32 (B, 4), the crop: left, top, right, bottom as fractions of the map's width and height.
        num_classes: K, the number of all classes.
        grid: rows and columns of tokens of the last stage.
        swap_axes: use (top, left, bottom, right) as the box and do not transpose the result, as LV-ViT's package does.
    Returns:
        targets of the tokens (B, K, *grid) and of the whole crop (B, K), float32; both sum to 1 over K.
    """
    batch, height, width, _ = scores.shape
    classes = classes.long()
    present = torch.zeros((batch, num_classes), dtype=torch.bool, device=scores.device)
    present.scatter_(1, classes.flatten(1), True)
    most = int(present.sum(1).max())
    # Of each image, the classes that its map contains, in ascending order, then others up to the same number.
    kept = present.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
    rank = (present.cumsum(1) - 1).gather(1, classes.flatten(1)).view_as(classes)
    rois = _rois(box, height, width, swap_axes)
    number = torch.arange(batch, dtype=rois.dtype, device=rois.device)[:, None]
    tokens = scores.new_zeros((batch, num_classes, *grid), dtype=torch.float32)
    whole = scores.new_zeros((batch, num_classes, 1, 1), dtype=torch.float32)
    step = max(_MAX_DENSE_VALUES // (most * height * width), 1)
    for start in range(0, batch, step):
        part = slice(start, start + step)
        dense = dense_maps(scores[part], rank[part], most)
        index = kept[part, :, None, None]
        for target in (tokens, whole):
            size = target.shape[2:]
            # aligned=False and a box that is shifted by half a cell: a box has at least the size of a cell
            numbered = torch.cat([number[: len(dense)], rois[part]], 1)
            pooled = roi_align(dense, numbered, size, sampling_ratio=-1, aligned=False)
            target[part].scatter_(1, index.expand(-1, -1, *size), pooled)
    return tokens.softmax(1), whole.flatten(1).softmax(1)


def dense_maps(scores: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """Stored maps, both (B, h, w, k), as float32 (B, num_classes, h, w): 0 for the classes that are not stored."""
    batch, height, width, _ = scores.shape
    dense = scores.new_zeros((batch, num_classes, height, width), dtype=torch.float32)
    return dense.scatter_(1, classes.long().permute(0, 3, 1, 2), scores.float().permute(0, 3, 1, 2))


def _rois(box: Tensor, height: int, width: int, swap_axes: bool) -> Tensor:
    """Boxes (B, 4) in fractions of the map, as RoIAlign's x1, y1, x2, y2 in cells; 0 is the centre of the first."""
    fractions = box[:, [1, 0, 3, 2]] if swap_axes else box
    return fractions.float() * fractions.new_tensor([width, height, width, height]) - 0.5


def smooth(targets: Tensor, smoothing: float) -> Tensor:
    """Label smoothing of distributions t (B, K, …) as LV-ViT does it: t·(1 − ε + ε/K) + ε/K, whose sum is 1 + ε/K."""
    off = smoothing / targets.shape[1]
    return targets * (1 - smoothing + off) + off


def mix_ground_truth(target: Tensor, label: Tensor, smoothing: float, *, agree: float, differ: float) -> Tensor:
    """Mix the true labels, one-hot and smoothed, into class targets.

    Args:
        target: smoothed class targets (B, K).
        label: int64 (B,).
        smoothing: of the one-hot labels.
        agree: weight of the label where it is the largest class of the target.
        differ: its weight elsewhere.
    """
    weight = torch.where(target.argmax(1) == label, agree, differ)[:, None]
    truth = smooth(F.one_hot(label, target.shape[1]).to(target), smoothing)
    return (1 - weight) * target + weight * truth


@dataclass(frozen=True)
class MixTokenBox:
    """The box of cells that images b and B−1−b exchange: rows top…bottom−1, columns left…right−1 of the grid."""

    top: int
    bottom: int
    left: int
    right: int
    grid: tuple[int, int]

    @classmethod
    def sample(cls, grid: tuple[int, int], alpha: float = 1.0) -> "MixTokenBox":
        """A random box: λ ~ Beta(alpha, alpha), centre uniform over the cells.

        With c = ⌊√(1−λ)·grid⌋ it reaches ⌊c/2⌋ cells to both sides of the centre, clipped to the grid. Draws from
        torch's global CPU generator.
        """
        share = float(torch.distributions.Beta(alpha, alpha).sample())
        height, width = (math.floor(math.sqrt(1 - share) * side) // 2 for side in grid)
        y, x = int(torch.randint(grid[0], ())), int(torch.randint(grid[1], ()))
        bottom, right = min(y + height, grid[0]), min(x + width, grid[1])
        return cls(max(y - height, 0), bottom, max(x - width, 0), right, grid)

    @property
    def kept(self) -> float:
        """The share of cells outside the box, after clipping: λ of the class targets."""
        return 1 - (self.bottom - self.top) * (self.right - self.left) / (self.grid[0] * self.grid[1])

    def swap(self, x: Tensor, scale: int = 1) -> Tensor:
        """x (B, C, H, W) with the box exchanged; a cell is `scale` positions of x wide and high."""
        rows = slice(self.top * scale, self.bottom * scale)
        columns = slice(self.left * scale, self.right * scale)
        swapped = x.clone()
        swapped[:, :, rows, columns] = x.flip(0)[:, :, rows, columns]
        return swapped

    def mix(self, targets: Tensor) -> Tensor:
        """Class targets (B, K) of the mixed images, weighted by area."""
        return self.kept * targets + (1 - self.kept) * targets.flip(0)


def token_label_loss(
    class_logits: Tensor, token_logits: Tensor, class_target: Tensor, token_target: Tensor, token_weight: float = 0.5
) -> Tensor:
    """Soft cross-entropy of the class head plus `token_weight` times its mean over the tokens; in float32.

    Args:
        class_logits, class_target: (B, K); the target is mixed already.
        token_logits, token_target: (B, K, h, w); the logits are swapped back, each to the image it belongs to.
    """
    whole = F.cross_entropy(class_logits.float(), class_target)
    return whole + token_weight * F.cross_entropy(token_logits.float(), token_target)
