"""Feature pyramid network (FPN) on the normalised stages of the backbone, and its coarser levels."""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import feature_pyramid_network as tv

from rmt.heads.pyramid import Pyramid


class BackboneWithFPN(nn.Module):
    """Images (B, 3, H, W) to a dict of feature maps with `out_channels` and the given `strides`, as in torchvision.

    Args:
        pyramid: the normalised stages.
        out_channels: channels of every level.
        extra_blocks: adds coarser levels, each of twice the stride of the one before.
        extra_levels: number of those.
    """

    def __init__(self, pyramid: Pyramid, out_channels: int, extra_blocks: tv.ExtraFPNBlock, extra_levels: int) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.fpn = tv.FeaturePyramidNetwork(pyramid.channels, out_channels, extra_blocks)
        self.out_channels = out_channels
        self.strides: list[int] = pyramid.strides + [pyramid.strides[-1] * 2 ** (i + 1) for i in range(extra_levels)]

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        return self.fpn(OrderedDict((str(i), m) for i, m in enumerate(self.pyramid(x))))


class LastLevelP6P7(tv.LastLevelP6P7):
    """P6 and P7 of RetinaNet: 3×3 convolutions of stride 2.

    torchvision's class has a ReLU between the two, and reads P5 instead of C5 whenever both have the same number of
    channels. The paper's detectors do neither.

    Args:
        in_channels: channels of C5, the last stage.
        out_channels: channels of the FPN.
        source: input of P6, "c5" or "p5".
        relu: apply a ReLU between P6 and P7.
    """

    def __init__(self, in_channels: int, out_channels: int, *, source: str = "c5", relu: bool = False) -> None:
        super().__init__(in_channels if source == "c5" else out_channels, out_channels)
        self.use_P5: bool = source == "p5"
        self.relu = relu

    def forward(self, p: list[Tensor], c: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        p6 = self.p6((p if self.use_P5 else c)[-1])
        p7 = self.p7(F.relu(p6) if self.relu else p6)
        return [*p, p6, p7], [*names, "p6", "p7"]
