"""RMT: Retentive Networks Meet Vision Transformers (Fan et al., CVPR 2024, arXiv 2309.11523).

image (B, 3, H, W) → stem (stride 4) → four stages with downsampling between (strides 4, 8, 16, 32) → head → logits.
Sec. 3.3, Fig. 3 and Table 10 of the paper. From top to bottom: attention module, feed-forward, block; stems and
downsampling; stage, head, network. The named networks are in `variants.py`.

Feature maps between modules are (B, C, H, W); inside a stage tokens are channels-last, (B, h, w, C). `nchw` is
a view; `nhwc` copies only where its input is not channels-last in memory.

The operations imported from `rmt.ops` choose a fast implementation. Their reference implementations are the functions
of `ops/masa.py` and the layers of torch.nn: this file runs on its own with that file pasted above and, in place of the
one import from `rmt`, `from torch.nn import LayerNorm, Linear`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, Self, cast, get_args

import torch
import torch.nn.functional as F
from timm.layers import DropPath, LayerNorm2d, LayerScale, SelectAdaptivePool2d
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rmt.ops import (
    Decay,
    LayerNorm,
    Linear,
    MaSAConfig,
    Phases,
    SpatialPrior,
    depthwise_conv,
    manhattan_attention,
    spatial_prior,
)

__all__ = ["RMT", "ManhattanSelfAttention", "PatchStem", "Stage"]


def nchw(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def nhwc(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous()


def gated(x: Tensor, gate: Tensor, norm: nn.GroupNorm) -> Tensor:
    """swish(gate) ⊙ GroupNorm(x), on tokens (B, h, w, C): RetNet's gate, in place of the softmax."""
    return F.silu(gate) * norm(x.flatten(0, 2)).reshape(gate.shape)


class ManhattanSelfAttention(nn.Module):
    """Self-attention with a spatial decay: logits fall linearly with the Manhattan distance, at one rate per head.

    Over all pairs of tokens (Eq. 5): softmax(q·kᵀ + (|Δx| + |Δy|)·ln γ)·v. Decomposed (Eq. 6): the same along each row,
    with |Δx| only, and then along each column, with |Δy| only and the same q and k. The local context enhancement
    (LCE, Eq. 7), a 5×5 depthwise convolution of v, is added to the result before the output projection.

    Args:
        dim: channels C; a multiple of 2·num_heads, since channels rotate in pairs.
        num_heads: number of heads n.
        decay_range: (a, b) of γᵢ = 1 − 2^(−a − (b−a)·i/n), Eq. 8.
        decomposed: along rows and columns, O(N·(h+w)); otherwise over all pairs, O(N²).
        decay: `"released"` adds |Δ|·ln γ before the softmax, as the released networks do (weights sum to 1);
            `"paper"` multiplies by γ^|Δ| after it, as the paper writes (weights sum to less); `"none"` leaves it out.
        phases: rotation of queries and keys: `"flat"` by the row-major position of the token, as in the released
            networks; `"axial"` half of the pairs by x and half by y, independent of the width of the image; `"none"`.
            The paper's Eq. 5 is `phases="none", decay="paper"`.
        gate: replace the softmax by RetNet's gate (Table 6): swish(x·W) ⊙ GroupNorm((q·kᵀ ⊙ D)·v), one group per head.
            D multiplies the scores in both forms of the decay.
        lce: whether to add the local context enhancement.
    """

    head_dim: int
    decay_range: tuple[float, float]
    config: MaSAConfig
    q: Linear
    k: Linear
    v: Linear
    gate: Linear | None
    gate_norm: nn.GroupNorm | None
    lce: nn.Conv2d | None
    proj: Linear

    attend: Callable[..., Tensor] = staticmethod(manhattan_attention)  # what those of `rmt.model.attention` replace
    window_size: int | None = None

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        decay_range: tuple[float, float] = (2.0, 6.0),
        decomposed: bool = True,
        decay: Decay = "released",
        phases: Phases = "flat",
        gate: bool = False,
        lce: bool = True,
    ) -> None:
        super().__init__()
        if dim % (2 * num_heads):
            raise ValueError(f"dim={dim} is not a multiple of 2·num_heads={2 * num_heads}: channels rotate in pairs")
        for name, value, values in (("decay", decay, get_args(Decay)), ("phases", phases, get_args(Phases))):
            if value not in values:
                raise ValueError(f"{name}={value!r} is not one of {values}")
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.decay_range = (float(decay_range[0]), float(decay_range[1]))
        self.decomposed = decomposed
        self.decay = decay
        self.phases = phases
        self.config = MaSAConfig(
            decomposed=decomposed,
            decay=decay,
            decay_range=self.decay_range,
            scale=self.head_dim**-0.5,
            phases=phases,
            softmax=not gate,
        )
        self.q = Linear(dim, dim)
        self.k = Linear(dim, dim)
        self.v = Linear(dim, dim)
        self.gate = Linear(dim, dim, bias=False) if gate else None
        self.gate_norm = nn.GroupNorm(num_heads, dim) if gate else None
        self.lce = nn.Conv2d(dim, dim, 5, padding=2, groups=dim) if lce else None
        self.proj = Linear(dim, dim)

    def prior(self, height: int, width: int, like: Tensor) -> SpatialPrior:
        """Phases and decay of a height × width grid; equal for all blocks of a stage. See `spatial_prior`."""
        return spatial_prior(height, width, self.num_heads, self.head_dim, self.decay_range, like, self.phases)

    def forward(self, x: Tensor, prior: SpatialPrior | None = None) -> Tensor:
        """Attention over the tokens x (B, h, w, C), to (B, h, w, C).

        Args:
            prior: from `self.prior(h, w, x)`, to share it between blocks; computed if absent.
        """
        if prior is None:
            prior = self.prior(x.shape[1], x.shape[2], x)
        heads = (self.num_heads, self.head_dim)
        v = self.v(x)  # (B, h, w, C)
        q, k = self.q(x).unflatten(-1, heads), self.k(x).unflatten(-1, heads)  # (B, h, w, n, d)
        # softmax(q·kᵀ + decay)·v for each head
        out = self.attend(q, k, v.unflatten(-1, heads), prior, self.config).flatten(-2)  # (B, h, w, C)
        if self.gate is not None:
            out = gated(out, self.gate(x), cast(nn.GroupNorm, self.gate_norm))
        if self.lce is not None:
            out = depthwise_conv(v, self.lce, plus=out)  # MaSA(x) + LCE(v)
        return self.proj(out)


# Of `RMT(attention=NAME)`; `variants.py` adds those of `rmt.model.attention`.
ATTENTIONS: dict[str, type[ManhattanSelfAttention]] = {"masa": ManhattanSelfAttention}


class FeedForward(nn.Module):
    """Linear C -> r·C, GELU, h + DWConv3×3(h), linear r·C -> C, on tokens (B, h, w, C)."""

    fc1: Linear
    dwconv: nn.Conv2d | None
    fc2: Linear

    def __init__(self, dim: int, hidden_dim: int, conv: bool = True) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden_dim)
        self.dwconv = nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1, groups=hidden_dim) if conv else None
        self.fc2 = Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        if self.dwconv is None:
            return self.fc2(F.gelu(self.fc1(x)))
        return self.fc2(depthwise_conv(self.fc1(x), self.dwconv, gelu=True, residual=True))


class Block(nn.Module):
    """x + CPE(x), then x + DropPath(s₁·MaSA(LN(x))), then x + DropPath(s₂·FFN(LN(x))), on tokens (B, h, w, C). Fig. 3.

    Args:
        attn: the attention of the block.
        mlp_ratio: r of the feed-forward.
        layer_scale: initial value of s₁ and s₂; None leaves them out.
        drop_path: rate of stochastic depth.
        cpe: whether to add the conditional positional encoding, a 3×3 depthwise convolution.
        ffn_conv: whether the feed-forward has its depthwise convolution.
    """

    cpe: nn.Conv2d | None
    norm1: LayerNorm
    ls1: LayerScale | nn.Identity
    norm2: LayerNorm
    mlp: FeedForward
    ls2: LayerScale | nn.Identity
    drop_path: DropPath

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

    def add_position(self, x: Tensor) -> Tensor:
        """x + CPE(x)."""
        return x if self.cpe is None else depthwise_conv(x, self.cpe, residual=True)

    def forward(self, x: Tensor, prior: SpatialPrior) -> Tensor:
        x = self.add_position(x)
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x), prior)))
        x = x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))
        return x


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad (B, C, H, W) with zeros on the right and at the bottom, to multiples of `multiple`."""
    return F.pad(x, (0, -x.shape[3] % multiple, 0, -x.shape[2] % multiple))


class ConvStem(nn.Sequential):
    """Four 3×3 convolutions with a stride of 4 in all: (B, 3, H, W) -> (B, C, ⌈H/4⌉, ⌈W/4⌉)."""

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

    def forward(self, x: Tensor) -> Tensor:
        # On a CPU training is faster in channels-last. torch.fx passes a proxy, which has no device.
        if self.training and isinstance(x, Tensor) and x.device.type == "cpu":
            x = nchw(nhwc(x))
        return super().forward(x)


class PoolStem(nn.Sequential):
    """Three 3×3 convolutions with max pooling, a stride of 4 in all: (B, 3, H, W) -> (B, C, ⌈H/4⌉, ⌈W/4⌉).

    Two of them see every pixel, which small images gain more from than from deeper stages.
    """

    def __init__(self, in_chans: int, dim: int) -> None:
        super().__init__(
            nn.Conv2d(in_chans, dim // 4, 3, padding=1),
            nn.BatchNorm2d(dim // 4),
            nn.ReLU(),
            nn.Conv2d(dim // 4, dim // 2, 3, padding=1),
            nn.MaxPool2d(2, ceil_mode=True),  # before the norm, which then has a quarter of the values
            nn.BatchNorm2d(dim // 2),
            nn.ReLU(),
            nn.Conv2d(dim // 2, dim, 3, padding=1),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.BatchNorm2d(dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        # On a CPU convolutions and pooling are faster so, and the tokens need no copy: a sixth of a training step.
        return super().forward(x.contiguous(memory_format=torch.channels_last))


class PatchStem(nn.Module):
    """Patch embedding of the ablation networks: (B, 3, H, W) -> (B, C, ⌈H/p⌉, ⌈W/p⌉).

    Args:
        in_chans: channels of the image.
        dim: channels C.
        patch_size: side p of a patch in pixels.
        norm: whether a LayerNorm follows.
    """

    proj: nn.Conv2d
    norm: LayerNorm | nn.Identity

    def __init__(self, in_chans: int, dim: int, patch_size: int, norm: bool) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_chans, dim, patch_size, stride=patch_size)
        self.norm = LayerNorm(dim, eps=1e-6) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) to the feature map (B, C, ⌈H/p⌉, ⌈W/p⌉)."""
        x = self.proj(pad_to_multiple(x, self.patch_size))
        return nchw(self.norm(nhwc(x)))


class ConvDownsample(nn.Sequential):
    """3×3 convolution with stride 2 and BatchNorm: (B, C, H, W) -> (B, C', ⌈H/2⌉, ⌈W/2⌉)."""

    def __init__(self, dim: int, dim_out: int) -> None:
        super().__init__(nn.Conv2d(dim, dim_out, 3, stride=2, padding=1), nn.BatchNorm2d(dim_out))


class PatchMerging(nn.Module):
    """Swin's downsampling: concatenate the four tokens of each 2×2 patch, LayerNorm, linear without bias."""

    norm: LayerNorm
    reduction: Linear

    def __init__(self, dim: int, dim_out: int) -> None:
        super().__init__()
        self.norm = LayerNorm(4 * dim, eps=1e-6)
        self.reduction = Linear(4 * dim, dim_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pixel_unshuffle(pad_to_multiple(x, 2), 2)
        return nchw(self.reduction(self.norm(nhwc(x))))


class Stage(nn.Module):
    """Downsampling and blocks of one width: (B, C, H, W) -> (B, C', h, w).

    Args:
        downsample: module from (B, C, H, W) to (B, C', h, w).
        blocks: the blocks, which share one prior.
    """

    blocks: nn.ModuleList

    def __init__(self, downsample: nn.Module, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """Feature map (B, C, H, W) of the stage before to that of this one, (B, C', h, w)."""
        x = nhwc(self.downsample(x))
        # All blocks of a stage share one prior.
        prior = cast(Block, self.blocks[0]).attn.prior(x.shape[1], x.shape[2], x)
        for block in self.blocks:
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, prior, use_reentrant=False)
            else:
                x = block(x, prior)
        return nchw(x)


class Head(nn.Module):
    """Feature map to logits: (B, C, h, w) -> (B, num_classes).

    Linear to `hidden_dim` per token, BatchNorm over tokens, SiLU, pooling, linear. Without `hidden_dim`: norm, pooling,
    linear, with LayerNorm as in the ablation networks, or BatchNorm as in the authors' first release. With `pool=""`
    the classifier is applied to every token, (B, num_classes, h, w); with `num_classes=0` the pooled features are
    returned.
    """

    num_features: int
    drop: nn.Dropout
    pool: SelectAdaptivePool2d

    POOLS = ("avg", "max", "avgmax", "catavgmax", "")

    def __init__(
        self, dim: int, hidden_dim: int | None, norm: str | None, num_classes: int, pool: str, drop_rate: float
    ) -> None:
        super().__init__()
        if norm not in (None, "batch", "layer"):
            raise ValueError(f"head_norm={norm!r} is neither 'batch' nor 'layer'")
        self.num_features = hidden_dim or dim
        batch_norm = norm == "batch" or (norm is None and bool(hidden_dim))
        self.proj: nn.Module = nn.Linear(dim, hidden_dim) if hidden_dim else nn.Identity()
        self.norm: nn.Module = (
            nn.BatchNorm2d(self.num_features) if batch_norm else LayerNorm2d(self.num_features, eps=1e-6)
        )
        self.act: nn.Module = nn.SiLU() if hidden_dim else nn.Identity()
        self.drop = nn.Dropout(drop_rate)
        self.reset(num_classes, pool)

    def reset(self, num_classes: int, pool: str) -> None:
        """Replace the classifier by a new one; the projection before it is kept."""
        if pool not in self.POOLS:
            raise ValueError(f"global_pool={pool!r} is not one of {self.POOLS}")
        self.pool = SelectAdaptivePool2d(pool_type=pool and f"fast{pool}", flatten=bool(pool))
        self.fc: nn.Module = (
            nn.Linear(self.num_features * self.pool.feat_mult(), num_classes) if num_classes else nn.Identity()
        )

    def prune(self, dim: int) -> None:
        """Remove everything but the pooling, for features of `dim` channels."""
        self.num_features = dim
        self.proj, self.norm, self.act, self.fc = (nn.Identity() for _ in range(4))

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.act(self.norm(nchw(self.proj(nhwc(x)))))
        x = self.drop(self.pool(x))
        if pre_logits:
            return x
        return self.fc(x) if self.pool.pool_type else nchw(self.fc(nhwc(x)))


class RMT(nn.Module):
    """The backbone and its classifier, with the methods of timm's networks.

    Sequence arguments have one entry per stage; the defaults are RMT-S. In training mode BatchNorm needs two values
    per channel, so a batch of one image needs a side of 33 px or more.

    Args:
        depths: number of blocks.
        dims: channels C, see `ManhattanSelfAttention`.
        num_heads: number of heads n.
        mlp_ratios: hidden channels of the feed-forward over C.
        decomposed: attention along rows and columns (True) or over all pairs of tokens (False).
        decay_ranges: (a, b) of Eq. 8, which set how far the heads see (Table 12).
        layer_scales: initial value of the layer scales; None leaves them out.
        decay, phases, gate: see `ManhattanSelfAttention`.
        attention: its name, or one name per stage: "masa", or one of `rmt.model.attention` in MaSA's place.
        window_size: side of its windows in tokens, by default 7.
        lce: whether blocks have the local context enhancement (Table 6).
        cpe: whether blocks have the conditional positional encoding (Table 6).
        ffn_conv: whether the feed-forward of blocks has a convolution (Table 6).
        conv_stem: a stem of four convolutions; otherwise patches of `patch_size`, with LayerNorm if `patch_norm`.
        pool_stem: with `conv_stem`: three convolutions and max pooling instead, for small images.
        conv_downsample: 3×3 convolution and BatchNorm between stages; otherwise Swin's patch merging.
        head_hidden_dim: width of the head's hidden layer; None or 0 for a head without one (`timm.create_model` takes
            None for "not given").
        head_norm: norm of the head, "batch" or "layer"; by default BatchNorm with a hidden layer, LayerNorm without.
        aux_head: add the token classifier of LV-ViT's token labelling; logits are then the class logits plus half the
            maximum of the token logits.
        num_classes: 0 for no classifier: `forward` returns pooled features.
        in_chans: channels of the image.
        global_pool: "avg", "max", "avgmax", "catavgmax", or "" for logits per token.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0.
    """

    num_classes: int
    global_pool: str
    stages: nn.Sequential
    num_features: int
    head: Head
    head_hidden_size: int
    batchnorm_frozen: bool

    feature_info: list[dict[str, Any]]
    pretrained_cfg: dict[str, Any]  # set by timm
    model_args: dict[str, Any]  # the keywords of create_model, for model files

    def __init__(
        self,
        *,
        depths: Sequence[int] = (3, 4, 18, 4),
        dims: Sequence[int] = (64, 128, 256, 512),
        num_heads: Sequence[int] = (4, 4, 8, 16),
        mlp_ratios: Sequence[float] = (4, 4, 3, 3),
        decomposed: Sequence[bool] = (True, True, True, False),
        decay_ranges: Sequence[tuple[float, float]] = ((2, 6), (2, 6), (2, 8), (2, 8)),
        layer_scales: Sequence[float | None] = (None, None, None, None),
        decay: Decay = "released",
        phases: Phases = "flat",
        gate: bool = False,
        attention: str | Sequence[str] = "masa",
        window_size: int | None = None,
        lce: bool = True,
        cpe: bool = True,
        ffn_conv: bool = True,
        conv_stem: bool = True,
        pool_stem: bool = False,
        patch_size: int = 4,
        patch_norm: bool = True,
        conv_downsample: bool = True,
        head_hidden_dim: int | None = 1024,
        head_norm: Literal["batch", "layer"] | None = None,
        aux_head: bool = False,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.global_pool = global_pool
        self.phases = phases
        if conv_stem:
            self.stem: nn.Module = (PoolStem if pool_stem else ConvStem)(in_chans, dims[0])
        else:
            self.stem = PatchStem(in_chans, dims[0], patch_size, patch_norm)
        total = sum(depths)
        drop_paths = [drop_path_rate * i / max(1, total - 1) for i in range(total)]
        downsample = ConvDownsample if conv_downsample else PatchMerging
        attentions = _attention_classes(attention, window_size, len(depths))
        self.stages = nn.Sequential()
        self.feature_info = []
        for i, (depth, dim) in enumerate(zip(depths, dims, strict=True)):
            blocks = [
                Block(
                    dim,
                    attentions[i](
                        dim,
                        num_heads[i],
                        decay_range=decay_ranges[i],
                        decomposed=decomposed[i],
                        decay=decay,
                        phases=phases,
                        gate=gate,
                        lce=lce,
                    ),
                    mlp_ratio=mlp_ratios[i],
                    layer_scale=layer_scales[i],
                    drop_path=drop_paths[sum(depths[:i]) + j],
                    cpe=cpe,
                    ffn_conv=ffn_conv,
                )
                for j in range(depth)
            ]
            self.stages.append(Stage(downsample(dims[i - 1], dim) if i else nn.Identity(), blocks))
            stride = (4 if conv_stem else patch_size) * 2**i
            self.feature_info.append(dict(num_chs=dim, reduction=stride, module=f"stages.{i}"))
        self.num_features = dims[-1]
        self.head = Head(dims[-1], head_hidden_dim, head_norm, num_classes, global_pool, drop_rate)
        self.head_hidden_size = self.head.num_features
        self.batchnorm_frozen = False
        # Kept as a flag: with num_classes=0 aux_head is None, and reset_classifier has to restore it.
        self.token_labelling = aux_head
        self.aux_head = self._new_aux_head()
        self.apply(init_weights)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = True,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The output of chosen stages, without norms: the feature pyramid.

        Args:
            x: images (B, in_chans, H, W), H and W from 32 up.
            indices: of the stages; an int for that number of last stages, None for all.
            norm: must be False: the norms of a pyramid are part of the detector or segmenter.
            stop_early: skip the stages after the last chosen one.
            output_fmt: "NCHW" or "NHWC".
            intermediates_only: return only the list.
        Returns:
            the last feature map (B, C₄, H/32, W/32) and a list of feature maps, strides 4, 8, 16, 32.
        """
        if norm:
            raise ValueError("norm=True: RMT's stages have no norm of their own, see rmt.heads for pyramids")
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt={output_fmt!r} is neither 'NCHW' nor 'NHWC'")
        take, last = _stage_indices(len(self.stages), indices)
        intermediates = []
        x = self.stem(x)
        for i, stage in enumerate(self.stages[: last + 1] if stop_early else self.stages):
            x = stage(x)
            if i in take:
                intermediates.append(x if output_fmt == "NCHW" else nhwc(x))
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the stages after the last of `indices`, and the classifier. Returns the indices, counted from 0."""
        take, last = _stage_indices(len(self.stages), indices)
        dim = self.feature_info[last]["num_chs"]
        if prune_head or last + 1 < len(self.stages):  # the head was sized for the last stage's channels
            self.reset_classifier(0)
            self.head.prune(dim)
            self.head_hidden_size = dim
        self.stages = self.stages[: last + 1]
        self.num_features = dim
        return take

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) to the output of the last stage (B, C₄, ⌈H/32⌉, ⌈W/32⌉)."""
        return self.stages(self.stem(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Output of the last stage to logits (B, num_classes), or to the features before the classifier."""
        logits = self.head(x, pre_logits=pre_logits)
        if self.aux_head is None or pre_logits:
            return logits
        return logits + 0.5 * self._token_logits(x).amax((2, 3), keepdim=logits.ndim == 4)

    def forward_token_labelling(
        self, x: Tensor, mix: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The two outputs that token labelling trains, separately; needs `aux_head`.

        Args:
            x: images (B, in_chans, H, W).
            mix: applied to the tokens of the stem (B, C₁, ⌈H/4⌉, ⌈W/4⌉), as in MixToken.
        Returns:
            class logits (B, num_classes) and token logits (B, num_classes, ⌈H/32⌉, ⌈W/32⌉).
        """
        tokens = self.stem(x)
        x = self.stages(tokens if mix is None else mix(tokens))
        return self.head(x), self._token_logits(x)

    def _token_logits(self, x: Tensor) -> Tensor:
        """Output of the last stage (B, C₄, h, w) to token logits (B, num_classes, h, w)."""
        if self.aux_head is None:
            raise ValueError("this network has no auxiliary head: build it with aux_head=True, as the _tl variants are")
        return nchw(self.aux_head(nhwc(x)))

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) to logits (B, num_classes); without a classifier to pooled features.

        Those are (B, C₄), or (B, head_hidden_dim) with a hidden layer; twice as many for "catavgmax".
        """
        return self.forward_head(self.forward_features(x))

    def _new_aux_head(self) -> nn.Linear | None:
        return nn.Linear(self.num_features, self.num_classes) if self.token_labelling and self.num_classes else None

    def get_classifier(self) -> nn.Module:
        """The last linear layer; an identity without a classifier."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier (and the token classifier of a token labelling network), for `num_classes` classes."""
        self.num_classes = num_classes
        self.global_pool = self.global_pool if global_pool is None else global_pool
        self.head.reset(num_classes, self.global_pool)
        self.aux_head = self._new_aux_head()
        for module in (self.head.fc, self.aux_head):
            if module is not None:
                init_weights(module.to(next(self.parameters())))  # of the same device and dtype

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Activation checkpointing: keep only the blocks' inputs and recompute the rest in the backward pass."""
        for stage in self.stages:
            cast(Stage, stage).grad_checkpointing = enable

    def freeze_batchnorm(self, enable: bool = True) -> None:
        """Use BatchNorm's running statistics in training without updating them; scale and shift are still trained."""
        self.batchnorm_frozen = enable
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`; after `freeze_batchnorm` the BatchNorms stay in evaluation mode."""
        super().train(mode)
        if self.batchnorm_frozen:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):  # includes SyncBatchNorm
                    module.eval()
        return self

    def no_weight_decay(self) -> set[str]:
        """Names of the layer scales. (timm's optimizers exempt biases and norms by themselves.)"""
        return {name for name, _ in self.named_parameters() if name.endswith((".ls1.gamma", ".ls2.gamma"))}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layer groups, for layer-wise learning rates."""
        fine = [(r"^stages\.(\d+)\.downsample", (0,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None)]
        return dict(stem=r"^stem", blocks=r"^stages\.(\d+)" if coarse else fine)


def _attention_classes(names: str | Sequence[str], window_size: int | None, stages: int) -> list[Any]:
    """The attention of each stage; those with windows have this size, if it is given."""
    each = [names] * stages if isinstance(names, str) else names
    if len(each) != stages or not set(each) <= ATTENTIONS.keys():
        raise ValueError(f"attention={names!r:.60} is not one of {tuple(ATTENTIONS)}, nor {stages}, one per stage")
    classes: list[Any] = [ATTENTIONS[name] for name in each]
    if window_size is None:
        return classes
    if all(attention.window_size is None for attention in classes):
        raise ValueError(f"window_size={window_size}: attention={names!r:.60} has no windows")
    return [partial(a, window_size=window_size) if a.window_size is not None else a for a in classes]


def _stage_indices(stages: int, indices: int | Sequence[int] | None) -> tuple[list[int], int]:
    """The chosen stages by timm's rules, see `forward_intermediates`, and the last of them.

    timm's `feature_take_indices` is in a private module and raises AssertionError for a wrong index.
    """
    if indices is None or isinstance(indices, int):
        count = stages if indices is None else indices
        take = list(range(stages - count, stages))
    else:
        take = [i + stages if i < 0 else i for i in indices]
    if not take or not all(0 <= i < stages for i in take):
        raise ValueError(f"indices={indices!r}: the network has stages 0 to {stages - 1}")
    return take, max(take)


def init_weights(module: nn.Module) -> None:
    """Draw linear weights from a normal distribution (σ 0.02, truncated at ±2), set biases to 0; keep the others."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
