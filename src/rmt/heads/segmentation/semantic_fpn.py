"""Semantic FPN (Panoptic Feature Pyramid Networks, Kirillov et al., CVPR 2019) as RMT's paper ran it, METHOD 7."""

from collections import OrderedDict

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from rmt.heads.segmentation.layers import ConvNormReLU, resize


class SemanticFPN(nn.Module):
    """Four maps of strides 4 … 32 to class logits at stride 4.

    An FPN of `fpn_channels`; level i then passes max(1, i) times a 3×3 convolution to `channels` with BatchNorm and
    ReLU, each followed by ×2 upsampling for i > 0; the levels are summed; channel dropout, 1×1 convolution.

    Args:
        in_channels: of the four maps.
        num_classes: K.
    """

    def __init__(
        self,
        in_channels: list[int],
        num_classes: int,
        *,
        fpn_channels: int = 256,
        channels: int = 128,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.fpn = FeaturePyramidNetwork(in_channels, fpn_channels)
        self.levels = nn.ModuleList()
        for i in range(len(in_channels)):
            layers: list[nn.Module] = []
            for j in range(max(1, i)):
                layers.append(ConvNormReLU(fpn_channels if j == 0 else channels, channels, 3))
                if i > 0:
                    layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
            self.levels.append(nn.Sequential(*layers))
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps (B, Cᵢ, H/2^(i+2), W/2^(i+2)) to `[logits]`, (B, K, H/4, W/4)."""
        maps = list(self.fpn(OrderedDict((str(i), m) for i, m in enumerate(maps))).values())
        total = self.levels[0](maps[0])
        for level, m in zip(self.levels[1:], maps[1:], strict=True):
            # At odd sizes twice a level's side is not the side of the level below.
            total = total + resize(level(m), total.shape[2:])
        return [self.classifier(self.dropout(total))]
