"""The arithmetic of token labelling: from stored maps to targets, MixToken, and the loss of both heads."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

STEM_TOKENS_PER_CELL = 8
"""Stem tokens (stride 4) along a side of a cell of the last stage's grid (stride 32)."""


def dense_maps(scores: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """Stored maps, both (B, h, w, k), as float32 (B, num_classes, h, w): 0 for the classes that are not stored."""
    batch, height, width, _ = scores.shape
    dense = scores.new_zeros((batch, height, width, num_classes), dtype=torch.float32)
    return dense.scatter_(3, classes.long(), scores.float()).permute(0, 3, 1, 2)


def pool_maps(maps: Tensor, box: Tensor, flipped: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The part of each map that lies in the crop of its image, pooled by RoIAlign into distributions over the classes.

    Args:
        maps: float32 (B, K, h, w), each of a whole image.
        box: float32 (B, 4), the crop: left, top, right, bottom as fractions of the image.
        flipped: bool (B,), whether the crop was flipped horizontally.
        grid: rows and columns of tokens of the last stage.
    Returns:
        targets of the tokens (B, K, *grid) and of the whole crop (B, K); both sum to 1 over K.
    """
    height, width = maps.shape[2:]
    scale = torch.tensor([width, height, width, height], dtype=maps.dtype, device=maps.device)
    number = torch.arange(len(maps), dtype=maps.dtype, device=maps.device)[:, None]
    rois = torch.cat([number, box.to(maps) * scale], dim=1)  # (B, 5)
    tokens = roi_align(maps, rois, grid, aligned=True)
    tokens = torch.where(flipped.view(-1, 1, 1, 1), tokens.flip(3), tokens)
    whole = roi_align(maps, rois, (1, 1), aligned=True).flatten(1)
    return _normalised(tokens), _normalised(whole)


def _normalised(scores: Tensor) -> Tensor:
    """Scores (B, K, …) divided by their sum over K, which lacks the classes that are not stored; uniform if it is 0."""
    total = scores.sum(1, keepdim=True)
    return torch.where(total > 0, scores / total.clamp(min=1e-12), 1 / scores.shape[1])


def smooth(targets: Tensor, smoothing: float) -> Tensor:
    """Label smoothing of distributions (B, K, …): the share `smoothing` is spread over all K classes."""
    return (1 - smoothing) * targets + smoothing / targets.shape[1]


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
        """λ ~ Beta(alpha, alpha), sides ⌊√(1−λ)·grid⌋, centre uniform over the cells, clipped to the grid.

        Draws from torch's global CPU generator.
        """
        share = float(torch.distributions.Beta(alpha, alpha).sample())
        height, width = (math.floor(math.sqrt(1 - share) * side) for side in grid)
        top = int(torch.randint(grid[0], ())) - height // 2
        left = int(torch.randint(grid[1], ())) - width // 2
        bottom, right = min(top + height, grid[0]), min(left + width, grid[1])
        return cls(max(top, 0), bottom, max(left, 0), right, grid)

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
