"""Semantic FPN (Panoptic Feature Pyramid Networks, Kirillov et al., CVPR 2019) and UPerNet (Unified Perceptual Parsing,
Xiao et al., ECCV 2018), as the paper trains them (Sec. 4.3, Table 5)."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import Conv2dNormActivation, FeaturePyramidNetwork

from rmt.ops.call import tracing


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear interpolation without aligned corners: (B, C, h, w) to (B, C, *size)."""
    return F.interpolate(x, size=list(size), mode="bilinear", align_corners=False)


class SemanticFPN(nn.Module):
    """Four feature maps of strides 4 … 32 to class logits at stride 4.

    An FPN of `fpn_channels`. Level i then passes max(1, i) times a 3×3 convolution to `channels` with BatchNorm and
    ReLU, each followed by ×2 upsampling for i > 0. The sum of the levels passes channel dropout and a 1×1 convolution.

    Args:
        in_channels: channels of the four feature maps.
        num_classes: number of classes K.
        fpn_channels: channels of the FPN.
        channels: channels of the levels after it.
        dropout: probability of the channel dropout.
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
        self.levels: nn.ModuleList = nn.ModuleList()
        for i in range(len(in_channels)):
            layers: list[nn.Module] = []
            for j in range(max(1, i)):
                layers.append(Conv2dNormActivation(fpn_channels if j == 0 else channels, channels, 3))
                if i > 0:
                    layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
            self.levels.append(nn.Sequential(*layers))
        self.dropout: nn.Dropout2d = nn.Dropout2d(dropout)
        self.classifier: nn.Conv2d = nn.Conv2d(channels, num_classes, 1)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps (B, Cᵢ, H/2^(i+2), W/2^(i+2)) to `[logits]`, (B, K, H/4, W/4)."""
        maps = list(self.fpn(OrderedDict((str(i), m) for i, m in enumerate(maps))).values())
        total = self.levels[0](maps[0])
        for level, m in zip(self.levels[1:], maps[1:], strict=True):
            # For odd sizes, twice the size of a level is not the size of the level below.
            total = total + resize(level(m), total.shape[2:])
        return [self.classifier(self.dropout(total))]


class PyramidPooling(nn.Module):
    """Pyramid pooling of PSPNet: averages over bins × bins regions, each with a 1×1 convolution, resized to the
    feature map and concatenated with it; then a 3×3 convolution."""

    def __init__(self, in_channels: int, channels: int, bins: tuple[int, ...] = (1, 2, 3, 6)) -> None:
        super().__init__()
        self.bins = bins
        self.branches: nn.ModuleList = nn.ModuleList(Conv2dNormActivation(in_channels, channels, 1) for _ in bins)
        self.bottleneck = Conv2dNormActivation(in_channels + len(bins) * channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        pooled = [
            resize(branch(average_bins(x, size)), x.shape[2:])
            for size, branch in zip(self.bins, self.branches, strict=True)
        ]
        return self.bottleneck(torch.cat([x, *pooled], dim=1))


def average_bins(x: Tensor, bins: int) -> Tensor:
    """Averages over bins × bins regions of the same size or overlapping by one row or column: (B, C, h, w) to
    (B, C, bins, bins), as `F.adaptive_avg_pool2d`.

    Exported graphs of any size have no such operator. They multiply by a matrix of averages along each side.
    """
    if tracing(x) != "export":
        return F.adaptive_avg_pool2d(x, bins)
    rows, columns = (_averages(side, bins, x) for side in x.shape[2:])
    return rows @ x @ columns.transpose(0, 1)


def _averages(length: int, bins: int, like: Tensor) -> Tensor:
    """The matrix (bins, length) of averages over ⌊i·length/bins⌋ to ⌈(i + 1)·length/bins⌉, i = 0 … bins − 1."""
    bin_, position = torch.arange(bins, device=like.device)[:, None], torch.arange(length, device=like.device)
    # Of numbers that are not negative: OpenVINO rounds the quotient of a negative one towards 0.
    inside = (position >= bin_ * length // bins) & (position < ((bin_ + 1) * length + bins - 1) // bins)
    return inside.to(like.dtype) / inside.sum(1, keepdim=True).to(like.dtype)


class UPerNet(nn.Module):
    """Four feature maps of strides 4 … 32 to class logits at stride 4, and in training auxiliary ones at stride 16.

    Pyramid pooling of the last feature map; 1×1 laterals of the others, summed top-down; a 3×3 convolution each; all
    levels concatenated at stride 4 and one more 3×3 convolution; channel dropout, 1×1 convolution. The auxiliary head
    is one 3×3 convolution on the third feature map, dropout and a 1×1 convolution.

    Args:
        in_channels: channels of the four feature maps.
        num_classes: number of classes K.
        channels: channels of the laterals, and of all convolutions after them.
        aux_channels: channels of the auxiliary head, 0 for none.
        dropout: probability of the channel dropout.
    """

    auxiliary: nn.Sequential | None

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
        self.pooling: PyramidPooling = PyramidPooling(in_channels[-1], channels)
        self.laterals: nn.ModuleList = nn.ModuleList(Conv2dNormActivation(c, channels, 1) for c in in_channels[:-1])
        self.outputs: nn.ModuleList = nn.ModuleList(
            Conv2dNormActivation(channels, channels, 3) for _ in in_channels[:-1]
        )
        self.fuse = Conv2dNormActivation(len(in_channels) * channels, channels, 3)
        self.dropout: nn.Dropout2d = nn.Dropout2d(dropout)
        self.classifier: nn.Conv2d = nn.Conv2d(channels, num_classes, 1)
        self.auxiliary = None
        if aux_channels:
            self.auxiliary = nn.Sequential(
                Conv2dNormActivation(in_channels[-2], aux_channels, 3),
                nn.Dropout2d(dropout),
                nn.Conv2d(aux_channels, num_classes, 1),
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
