"""What the network is made of besides attention: stems, the feed-forward, the block, downsampling.

Feature maps between modules are (B, C, H, W); inside a stage tokens are channels-last, (B, h, w, C). Both are views of
the same channels-last memory, so `nchw` and `nhwc` cost nothing there.
"""

import torch.nn.functional as F
from timm.layers import DropPath, LayerScale
from torch import Tensor, nn

from rmt.model.attention import ManhattanSelfAttention
from rmt.ops.decay import SpatialPrior
from rmt.ops.depthwise import depthwise, gelu_depthwise
from rmt.ops.layer_norm import LayerNorm
from rmt.ops.linear import Linear


def nchw(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def nhwc(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous()


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Zeros to the right of and below (B, C, H, W), so that whole patches cover every pixel."""
    return F.pad(x, (0, -x.shape[3] % multiple, 0, -x.shape[2] % multiple))


class ConvStem(nn.Sequential):
    """Image to tokens at stride 4 by four 3×3 convolutions: (B, 3, H, W) -> (B, C, ⌈H/4⌉, ⌈W/4⌉)."""

    def __init__(self, in_chans: int, dim: int) -> None:
        half = dim // 2
        super().__init__(
            nn.Conv2d(in_chans, half, 3, stride=2, padding=1),
            nn.BatchNorm2d(half),
            nn.GELU(),
            nn.Conv2d(half, half, 3, padding=1),
            nn.BatchNorm2d(half),
            nn.GELU(),
            nn.Conv2d(half, dim, 3, stride=2, padding=1),
            nn.BatchNorm2d(dim),
            nn.GELU(),
            nn.Conv2d(dim, dim, 3, padding=1),
            nn.BatchNorm2d(dim),
        )


class PatchStem(nn.Module):
    """The stem of the ablation networks: one patch, one token. (B, 3, H, W) -> (B, C, ⌈H/p⌉, ⌈W/p⌉)."""

    def __init__(self, in_chans: int, dim: int, patch_size: int, norm: bool) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_chans, dim, patch_size, stride=patch_size)
        self.norm = LayerNorm(dim, eps=1e-6) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(pad_to_multiple(x, self.patch_size))
        return nchw(self.norm(nhwc(x)))


class ConvDownsample(nn.Sequential):
    """Between stages: (B, C, H, W) -> (B, C', ⌈H/2⌉, ⌈W/2⌉)."""

    def __init__(self, dim: int, dim_out: int) -> None:
        super().__init__(nn.Conv2d(dim, dim_out, 3, stride=2, padding=1), nn.BatchNorm2d(dim_out))


class PatchMerging(nn.Module):
    """Swin's downsampling: the four tokens of a 2×2 patch side by side, LayerNorm, linear without bias."""

    def __init__(self, dim: int, dim_out: int) -> None:
        super().__init__()
        self.norm = LayerNorm(4 * dim, eps=1e-6)
        self.reduction = Linear(4 * dim, dim_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pixel_unshuffle(pad_to_multiple(x, 2), 2)
        return nchw(self.reduction(self.norm(nhwc(x))))


class FeedForward(nn.Module):
    """Linear C -> r·C, GELU, h + DWConv3×3(h), linear r·C -> C, on tokens (B, h, w, C)."""

    def __init__(self, dim: int, hidden_dim: int, conv: bool = True) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden_dim)
        self.dwconv = nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1, groups=hidden_dim) if conv else None
        self.fc2 = Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        if self.dwconv is None:
            return self.fc2(F.gelu(self.fc1(x)))
        return self.fc2(gelu_depthwise(self.fc1(x), self.dwconv, identity=True))


class Block(nn.Module):
    """x + CPE(x), then x + DropPath(s₁·MaSA(LN(x))), then x + DropPath(s₂·FFN(LN(x))), on tokens (B, h, w, C).

    Args:
        attn: the block's attention.
        mlp_ratio: r of the feed-forward.
        layer_scale: initial s₁ and s₂; None leaves them out.
        drop_path: rate of stochastic depth.
        cpe: with conditional positional encoding, a 3×3 depthwise convolution.
        ffn_conv: with the depthwise convolution in the feed-forward.
    """

    def __init__(
        self,
        dim: int,
        attn: ManhattanSelfAttention,
        *,
        mlp_ratio: float = 4.0,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        cpe: bool = True,
        ffn_conv: bool = True,
    ) -> None:
        super().__init__()
        self.cpe = nn.Conv2d(dim, dim, 3, padding=1, groups=dim) if cpe else None
        self.norm1 = LayerNorm(dim, eps=1e-6)
        self.attn = attn
        self.ls1 = LayerScale(dim, layer_scale) if layer_scale is not None else nn.Identity()
        self.norm2 = LayerNorm(dim, eps=1e-6)
        self.mlp = FeedForward(dim, int(dim * mlp_ratio), conv=ffn_conv)
        self.ls2 = LayerScale(dim, layer_scale) if layer_scale is not None else nn.Identity()
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, prior: SpatialPrior) -> Tensor:
        if self.cpe is not None:
            x = depthwise(x, self.cpe, plus=x)
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x), prior)))
        x = x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))
        return x
