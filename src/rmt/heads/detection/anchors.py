"""Anchors and what they are matched with: boxes of given scales and ratios on every cell of every level."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList


class Anchors(AnchorGenerator):
    """Boxes centred on (x·stride, y·stride), of side scale·stride, for every cell (x, y) of every level.

    Two differences from torchvision's generator, both as in the paper's framework. Corners are not rounded to whole
    pixels. And a level's stride is a constant: torchvision divides the image's side by the map's, which at 800 px and
    13 cells makes 61 of 64.

    Args:
        scales: sides of the square anchors, in units of the stride.
        ratios: heights over widths; the area stays.
        strides: of the levels, finest first.
        rounded: round the corners as torchvision does.
    """

    def __init__(
        self, scales: Sequence[float], ratios: Sequence[float], strides: Sequence[int], *, rounded: bool = False
    ) -> None:
        sizes = tuple(tuple(scale * stride for scale in scales) for stride in strides)
        super().__init__(sizes, (tuple(ratios),) * len(strides))
        self.strides = list(strides)
        self.cells = [_cell(level, ratios, rounded) for level in sizes]

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Maps (B, C, hᵢ, wᵢ) to B times the same anchors (Σ hᵢ·wᵢ·A, 4), x1 y1 x2 y2 in pixels; at least float32."""
        like = feature_maps[0]
        dtype = torch.promote_types(like.dtype, torch.float32)  # bfloat16 has no pixel above 256 of its own
        self.cell_anchors = [cell.to(like.device, dtype) for cell in self.cells]
        grids = [list(m.shape[-2:]) for m in feature_maps]
        steps = [[torch.tensor(s, device=like.device)] * 2 for s in self.strides]
        anchors = torch.cat(self.grid_anchors(grids, steps))
        return [anchors for _ in image_list.image_sizes]


def _cell(sizes: Sequence[float], ratios: Sequence[float], rounded: bool) -> Tensor:
    """The anchors of one cell around (0, 0), ratio by ratio: (A, 4), float64."""
    root = torch.tensor(ratios, dtype=torch.float64, device="cpu").sqrt()[:, None]
    size = torch.tensor(sizes, dtype=torch.float64, device="cpu")
    width, height = (size / root).flatten(), (size * root).flatten()
    cell = torch.stack([-width, -height, width, height], dim=1) / 2
    return cell.round() if rounded else cell


class BoxMatcher(Matcher):
    """Which ground-truth box each anchor or proposal belongs to, by the overlaps (M boxes × N anchors).

    The best box, if their overlap reaches `high`; none (−1) if it stays under `low`; undecided (−2) between. Then, if
    `low_quality` is a number: each box whose best overlap reaches it takes every anchor that has this overlap, even
    one that another box overlaps more, the later box going first. That is the paper's framework's rule; torchvision
    has no lower bound and leaves such an anchor with the box that it overlaps most.
    """

    def __init__(self, high: float, low: float, *, low_quality: float | None) -> None:
        super().__init__(high, low, allow_low_quality_matches=low_quality is not None)
        self.low_quality = low_quality

    def set_low_quality_matches_(self, matches: Tensor, all_matches: Tensor, match_quality_matrix: Tensor) -> None:
        if self.low_quality is None:
            return
        best = match_quality_matrix.amax(dim=1, keepdim=True)  # (M, 1)
        takes = (match_quality_matrix == best) & (best >= self.low_quality) & (best > 0)
        box, anchor = torch.where(takes)
        # The highest index wins whatever the order of the writes.
        taken = torch.full_like(matches, -1).scatter_reduce(0, anchor, box, "amax")
        matches.copy_(torch.where(taken >= 0, taken, matches))
