"""RoIAlign over the levels of a pyramid."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align
from torchvision.ops._utils import convert_boxes_to_roi_format
from torchvision.ops.poolers import LevelMapper


class RoIPool(nn.Module):
    """Each box from the level of its size: ⌊4 + log₂(√area / 224)⌋, clamped (FPN paper, Eq. 1).

    torchvision's `MultiScaleRoIAlign` has no `aligned`, hence this.

    Args:
        size: of the result.
        strides: of the maps, powers of two, finest first; of more maps the rest is not used.
        aligned: pixel centres at half-integers. sampling_ratio: points per bin and side, 0 for as many as pixels.
    """

    def __init__(self, size: int, strides: Sequence[int], *, aligned: bool, sampling_ratio: int) -> None:
        super().__init__()
        self.size = size
        self.scales = [1 / stride for stride in strides]
        self.aligned = aligned
        self.sampling_ratio = sampling_ratio
        self.level_of = LevelMapper(strides[0].bit_length() - 1, strides[-1].bit_length() - 1)

    def forward(self, maps: Sequence[Tensor], boxes: list[Tensor]) -> Tensor:
        """Maps (B, C, hᵢ, wᵢ) and boxes (Rᵦ, 4) of each image, in pixels, to (Σ Rᵦ, C, size, size)."""
        # Under autocast the levels could differ in dtype; boxes need float32 in any case.
        dtype = torch.promote_types(maps[0].dtype, boxes[0].dtype)
        rois = convert_boxes_to_roi_format(boxes).to(dtype)
        levels = self.level_of(boxes)
        pooled = rois.new_zeros(len(rois), maps[0].shape[1], self.size, self.size)
        # A level without boxes is pooled all the same: its weights get a gradient, zero, on every rank.
        for level, (m, scale) in enumerate(zip(maps, self.scales, strict=False)):
            (chosen,) = torch.where(levels == level)
            pooled[chosen] = roi_align(
                m.to(dtype), rois[chosen], self.size, scale, self.sampling_ratio, aligned=self.aligned
            )
        return pooled
