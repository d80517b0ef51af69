"""UPerNet (Unified Perceptual Parsing, Xiao et al., ECCV 2018) as RMT's paper ran it, METHOD 7."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rmt.heads.segmentation.layers import ConvNormReLU, resize


class PyramidPooling(nn.Module):
    """PSPNet's pooling: averages over bins × bins regions, 1×1 convolutions, beside the map itself, a 3×3 over all."""

    def __init__(self, in_channels: int, channels: int, bins: tuple[int, ...] = (1, 2, 3, 6)) -> None:
        super().__init__()
        self.bins = bins
        self.branches = nn.ModuleList(ConvNormReLU(in_channels, channels, 1) for _ in bins)
        self.bottleneck = ConvNormReLU(in_channels + len(bins) * channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        pooled = [
            resize(branch(F.adaptive_avg_pool2d(x, size)), x.shape[2:])
            for size, branch in zip(self.bins, self.branches, strict=True)
        ]
        return self.bottleneck(torch.cat([x, *pooled], dim=1))


class UPerNet(nn.Module):
    """Four maps of strides 4 … 32 to class logits at stride 4, and auxiliary ones at stride 16 while training.

    Pyramid pooling on the last map; 1×1 laterals of the others, summed top-down; a 3×3 each; all levels side by side at
    stride 4 through one more 3×3; channel dropout, 1×1 convolution. The auxiliary head is one 3×3 convolution on the
    third map.

    Args:
        in_channels: of the four maps.
        num_classes: K.
        aux_channels: width of the auxiliary head, 0 for none.
    """

    def __init__(
        self,
        in_channels: list[int],
        num_classes: int,
        *,
        channels: int = 512,
        aux_channels: int = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.pooling = PyramidPooling(in_channels[-1], channels)
        self.laterals = nn.ModuleList(ConvNormReLU(c, channels, 1) for c in in_channels[:-1])
        self.outputs = nn.ModuleList(ConvNormReLU(channels, channels, 3) for _ in in_channels[:-1])
        self.fuse = ConvNormReLU(len(in_channels) * channels, channels, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        self.auxiliary = (
            nn.Sequential(
                ConvNormReLU(in_channels[-2], aux_channels, 3),
                nn.Dropout2d(dropout),
                nn.Conv2d(aux_channels, num_classes, 1),
            )
            if aux_channels
            else None
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps (B, Cᵢ, H/2^(i+2), W/2^(i+2)) to `[logits]`, (B, K, H/4, W/4); in training also the auxiliary ones."""
        levels = [lateral(m) for lateral, m in zip(self.laterals, maps[:-1], strict=True)]
        levels.append(self.pooling(maps[-1]))
        for i in reversed(range(len(levels) - 1)):
            levels[i] = levels[i] + resize(levels[i + 1], levels[i].shape[2:])
        levels[:-1] = [output(level) for output, level in zip(self.outputs, levels[:-1], strict=True)]
        size = levels[0].shape[2:]
        fused = self.fuse(torch.cat([levels[0], *(resize(level, size) for level in levels[1:])], dim=1))
        logits = [self.classifier(self.dropout(fused))]
        if self.training and self.auxiliary is not None:
            logits.append(self.auxiliary(maps[-2]))
        return logits
