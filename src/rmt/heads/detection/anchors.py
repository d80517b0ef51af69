"""Anchor boxes, and the rule that assigns ground-truth boxes to them."""

from collections.abc import Sequence

import torch
import torchvision.models.detection._utils as tv_utils
import torchvision.models.detection.anchor_utils as tv_anchors
from torch import Tensor
from torchvision.models.detection.image_list import ImageList


class AnchorGenerator(tv_anchors.AnchorGenerator):
    """Anchors of side scale·stride centred on (x·stride, y·stride), for every cell (x, y) of every level.

    Differs from torchvision's generator in two ways, both as in MMDetection. The corners are not rounded to whole
    pixels. And the stride of a level is constant: torchvision divides the side of the image by that of the feature
    map, which for 800 px and 13 cells gives 61 instead of 64.

    Args:
        scales: sides of the square anchors, in units of the stride.
        ratios: heights over widths, at constant area.
        strides: of the levels, finest first.
        rounded: round the corners as torchvision does.
    """

    def __init__(
        self, scales: Sequence[float], ratios: Sequence[float], strides: Sequence[int], *, rounded: bool = False
    ) -> None:
        sizes = tuple(tuple(scale * stride for scale in scales) for stride in strides)
        super().__init__(sizes, (tuple(ratios),) * len(strides))
        self.strides: list[int] = list(strides)
        self.base_anchors: list[Tensor] = [_base_anchors(level, ratios, rounded) for level in sizes]

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Return the anchors (Σ hᵢ·wᵢ·A, 4) of feature maps (B, C, hᵢ, wᵢ), B times the same tensor.

        They are x1 y1 x2 y2 in pixels, in float32 or higher precision: bfloat16 cannot represent every pixel past 256.
        """
        dtype = torch.promote_types(feature_maps[0].dtype, torch.float32)
        self.cell_anchors: list[Tensor] = [anchors.to(feature_maps[0].device, dtype) for anchors in self.base_anchors]
        grid_sizes = [list(m.shape[-2:]) for m in feature_maps]
        anchors = torch.cat(self.grid_anchors(grid_sizes, [[s, s] for s in self.strides]))
        return [anchors for _ in image_list.image_sizes]


def _base_anchors(sizes: Sequence[float], ratios: Sequence[float], rounded: bool) -> Tensor:
    """Anchors of one cell around (0, 0), ratio by ratio: (A, 4), float64."""
    root = torch.tensor(ratios, dtype=torch.float64, device="cpu").sqrt()[:, None]
    size = torch.tensor(sizes, dtype=torch.float64, device="cpu")
    width, height = (size / root).flatten(), (size * root).flatten()
    anchors = torch.stack([-width, -height, width, height], dim=1) / 2
    return anchors.round() if rounded else anchors


class Matcher(tv_utils.Matcher):
    """Assign a ground-truth box to each anchor or proposal, given their IoU (M boxes × N anchors).

    An anchor gets the box with the highest IoU if that is at least `high`, −1 if it is below `low`, and −2 (ignored)
    in between. If `low_quality` is a number, each box whose highest IoU reaches it is then assigned to every anchor
    with that IoU, even to one that overlaps another box more; of several such boxes the last one is assigned. That is
    MMDetection's rule. torchvision has no lower bound, and leaves such an anchor to the box with which
    its IoU is highest.
    """

    def __init__(self, high: float, low: float, *, low_quality: float | None) -> None:
        super().__init__(high, low, allow_low_quality_matches=low_quality is not None)
        self.low_quality = low_quality

    def set_low_quality_matches_(self, matches: Tensor, all_matches: Tensor, match_quality_matrix: Tensor) -> None:
        assert self.low_quality is not None
        best = match_quality_matrix.amax(dim=1, keepdim=True)  # (M, 1)
        matched = (match_quality_matrix == best) & (best >= self.low_quality) & (best > 0)
        box, anchor = torch.where(matched)
        # A maximum, because the result of writing by index would depend on the order of the writes.
        assigned = torch.full_like(matches, -1).scatter_reduce(0, anchor, box, "amax")
        matches.copy_(torch.where(assigned >= 0, assigned, matches))
