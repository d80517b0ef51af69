"""The maps that detectors read: RMT's normalised stages through a feature pyramid network, and coarser levels."""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from rmt.errors import RMTError
from rmt.heads.pyramid import Pyramid


class FPN(nn.Module):
    """Images (B, 3, H, W) to maps of `out_channels` and the given `strides`, as torchvision's detectors want them.

    Args:
        pyramid: the normalised stages.
        out_channels: of every level.
        extra: what adds coarser levels, each of twice the stride before.
        extra_levels: how many those are.
    """

    def __init__(self, pyramid: Pyramid, out_channels: int, extra: ExtraFPNBlock, extra_levels: int) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.fpn = FeaturePyramidNetwork(pyramid.channels, out_channels, extra)
        self.out_channels = out_channels
        self.strides = pyramid.strides + [pyramid.strides[-1] * 2 ** (i + 1) for i in range(extra_levels)]

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        return self.fpn(OrderedDict((str(i), m) for i, m in enumerate(self.pyramid(x))))


class ConvLevels(ExtraFPNBlock):
    """RetinaNet's P6 and P7, 3×3 convolutions of stride 2.

    torchvision's `LastLevelP6P7` has a ReLU between the two, and reads P5 instead of C5 whenever both have the same
    number of channels; the paper does neither.

    Args:
        in_channels: of C5, the last stage.
        out_channels: of the FPN.
        source: what P6 is made of, "c5" or "p5".
        relu: between P6 and P7.
    """

    def __init__(self, in_channels: int, out_channels: int, *, source: str = "c5", relu: bool = False) -> None:
        super().__init__()
        if source not in ("c5", "p5"):
            raise RMTError(f"p6_source={source!r} is neither 'c5' nor 'p5'")
        self.source = source
        self.relu = relu
        self.p6 = nn.Conv2d(in_channels if source == "c5" else out_channels, out_channels, 3, 2, 1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, 2, 1)
        for conv in (self.p6, self.p7):
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        p6 = self.p6(x[-1] if self.source == "c5" else results[-1])
        p7 = self.p7(F.relu(p6) if self.relu else p6)
        return [*results, p6, p7], [*names, "p6", "p7"]
