"""RMT: Retentive Networks Meet Vision Transformers (Fan et al., CVPR 2024, arXiv 2309.11523).

image (B, 3, H, W) → stem (stride 4) → stages, with downsampling between (strides 4, 8, 16, 32) → head → logits.
The named networks are in `variants.py`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Self, cast

import torch
from timm.layers import LayerNorm2d, SelectAdaptivePool2d
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rmt.model.attention import Decay, ManhattanSelfAttention
from rmt.model.blocks import Block, ConvDownsample, ConvStem, PatchMerging, PatchStem, nchw, nhwc


class Stage(nn.Module):
    """Downsampling, if any, and blocks of one width: (B, C, H, W) -> (B, C', h, w)."""

    def __init__(self, downsample: nn.Module, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        x = nhwc(self.downsample(x))
        prior = cast(Block, self.blocks[0]).attn.prior(x.shape[1], x.shape[2], x)
        for block in self.blocks:
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, prior, use_reentrant=False)
            else:
                x = block(x, prior)
        return nchw(x)


class Head(nn.Module):
    """Feature map to logits: (B, C, h, w) -> (B, num_classes).

    Linear to `hidden_dim` per token, BatchNorm over tokens, SiLU, pooling, linear. Without `hidden_dim`, as the
    ablation networks have it: LayerNorm, pooling, linear. With `pool=""` the linear classifies every token instead,
    (B, num_classes, h, w); with `num_classes=0` the pooled features come out.
    """

    POOLS = ("avg", "max", "avgmax", "catavgmax", "")

    def __init__(self, dim: int, hidden_dim: int | None, num_classes: int, pool: str, drop_rate: float) -> None:
        super().__init__()
        self.num_features = hidden_dim or dim
        self.proj: nn.Module = nn.Linear(dim, hidden_dim) if hidden_dim else nn.Identity()
        self.norm: nn.Module = nn.BatchNorm2d(hidden_dim) if hidden_dim else LayerNorm2d(dim, eps=1e-6)
        self.act: nn.Module = nn.SiLU() if hidden_dim else nn.Identity()
        self.drop = nn.Dropout(drop_rate)
        self.reset(num_classes, pool)

    def reset(self, num_classes: int, pool: str) -> None:
        """A fresh classifier on the kept projection."""
        if pool not in self.POOLS:
            raise ValueError(f"global_pool={pool!r} is not one of {self.POOLS}")
        self.pool = SelectAdaptivePool2d(pool_type=pool and f"fast{pool}", flatten=bool(pool))
        self.fc: nn.Module = (
            nn.Linear(self.num_features * self.pool.feat_mult(), num_classes) if num_classes else nn.Identity()
        )

    def prune(self, dim: int) -> None:
        """Leave the pooling alone, for features of `dim` channels."""
        self.num_features = dim
        self.proj, self.norm, self.act, self.fc = (nn.Identity() for _ in range(4))

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.act(self.norm(nchw(self.proj(nhwc(x)))))
        x = self.drop(self.pool(x))
        if pre_logits:
            return x
        return self.fc(x) if self.pool.pool_type else nchw(self.fc(nhwc(x)))


class RMT(nn.Module):
    """The backbone and its classifier, with the methods timm's users know.

    Sequences have one entry per stage; the defaults are RMT-S, the family's small one. In training mode BatchNorm
    needs two values per channel, so a batch of one image needs a side of 33 px or more.

    Args:
        depths, dims, num_heads, mlp_ratios: blocks, channels, heads and feed-forward ratio.
        decomposed: rows and columns (True) or all pairs (False).
        decay_ranges: (a, b) of Eq. 8, how far the heads see.
        layer_scales: initial layer scale, None for none.
        decay: `"released"`, `"paper"` or `"none"`, see `ManhattanSelfAttention`.
        lce, cpe, ffn_conv: local context enhancement, conditional positional encoding, convolution in the
            feed-forward; each can be left out for ablations.
        conv_stem: four convolutions; otherwise patches of `patch_size`, normalised if `patch_norm`.
        conv_downsample: 3×3 convolution and BatchNorm between stages; otherwise Swin's patch merging.
        head_hidden_dim: width of the head's hidden layer; None for a plain one.
        aux_head: with the token classifier of token labelling; logits then are class logits + ½·max over tokens.
        num_classes: 0 for none: `forward` returns pooled features.
        in_chans: channels of the image.
        global_pool: "avg", "max", "avgmax", "catavgmax", or "" for logits per token.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0.
    """

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
        lce: bool = True,
        cpe: bool = True,
        ffn_conv: bool = True,
        conv_stem: bool = True,
        patch_size: int = 4,
        patch_norm: bool = True,
        conv_downsample: bool = True,
        head_hidden_dim: int | None = 1024,
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
        self.stem = ConvStem(in_chans, dims[0]) if conv_stem else PatchStem(in_chans, dims[0], patch_size, patch_norm)
        total = sum(depths)
        drop_paths = [drop_path_rate * i / max(1, total - 1) for i in range(total)]
        downsample = ConvDownsample if conv_downsample else PatchMerging
        self.stages = nn.Sequential()
        self.feature_info = []
        for i, (depth, dim) in enumerate(zip(depths, dims, strict=True)):
            blocks = [
                Block(
                    dim,
                    ManhattanSelfAttention(
                        dim,
                        num_heads[i],
                        decay_range=decay_ranges[i],
                        decomposed=decomposed[i],
                        decay=decay,
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
        self.head = Head(dims[-1], head_hidden_dim, num_classes, global_pool, drop_rate)
        self.head_hidden_size = self.head.num_features
        self.batchnorm_frozen = False
        self.token_labelling = aux_head  # said apart from the module, which num_classes=0 leaves out
        self.aux_head = self._fresh_aux_head()
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
        """The raw output of chosen stages, the feature pyramid.

        Args:
            x: images (B, in_chans, H, W), H and W from 32 up.
            indices: stages; an int for the last so many, None for all.
            norm: must be False: the norms of a pyramid belong to the detector or segmenter on top.
            stop_early: do not run the stages after the last chosen one.
            output_fmt: "NCHW" or "NHWC".
            intermediates_only: return the list alone.
        Returns:
            the last feature map (B, C₄, H/32, W/32) and a list of maps, strides 4, 8, 16, 32.
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
        """Drop the stages after the last of `indices`, and the classifier. Returns the indices as absolute numbers."""
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
        """Images (B, in_chans, H, W) to the last stage's output (B, C₄, ⌈H/32⌉, ⌈W/32⌉)."""
        return self.stages(self.stem(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The last stage's output to logits (B, num_classes), or to the features before the classifier."""
        logits = self.head(x, pre_logits=pre_logits)
        if self.aux_head is None or pre_logits:
            return logits
        return logits + 0.5 * self._token_logits(x).amax((2, 3), keepdim=logits.ndim == 4)

    def forward_token_labelling(
        self, x: Tensor, mix: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The two answers that token labelling trains, apart; needs `aux_head`.

        Args:
            x: images (B, in_chans, H, W).
            mix: changes the stem's tokens (B, C₁, ⌈H/4⌉, ⌈W/4⌉) on their way into the stages, as MixToken does.
        Returns:
            class logits (B, num_classes) and token logits (B, num_classes, ⌈H/32⌉, ⌈W/32⌉).
        """
        tokens = self.stem(x)
        x = self.stages(tokens if mix is None else mix(tokens))
        return self.head(x), self._token_logits(x)

    def _token_logits(self, x: Tensor) -> Tensor:
        """The last stage's output (B, C₄, h, w) to (B, num_classes, h, w) by the auxiliary head."""
        if self.aux_head is None:
            raise ValueError("this network has no auxiliary head: build it with aux_head=True, as the _tl variants are")
        return nchw(self.aux_head(nhwc(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def _fresh_aux_head(self) -> nn.Linear | None:
        return nn.Linear(self.num_features, self.num_classes) if self.token_labelling and self.num_classes else None

    def get_classifier(self) -> nn.Module:
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh classifier (and auxiliary one, if the network is of that kind) for another number of classes."""
        self.num_classes = num_classes
        self.global_pool = self.global_pool if global_pool is None else global_pool
        self.head.reset(num_classes, self.global_pool)
        self.aux_head = self._fresh_aux_head()
        for module in (self.head.fc, self.aux_head):
            if module is not None:
                init_weights(module.to(next(self.parameters())))  # of the same device and dtype

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the blocks' inputs for the backward pass, and compute the rest again."""
        for stage in self.stages:
            cast(Stage, stage).grad_checkpointing = enable

    def freeze_batchnorm(self, enable: bool = True) -> None:
        """Let BatchNorm use and keep the statistics it has, in training too; its scale and shift still learn."""
        self.batchnorm_frozen = enable
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.batchnorm_frozen:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):  # the synchronised ones are among them
                    module.eval()
        return self

    def no_weight_decay(self) -> set[str]:
        """Layer scales. (Biases and norms are vectors, which timm's optimisers exempt by themselves.)"""
        return {name for name, _ in self.named_parameters() if name.endswith((".ls1.gamma", ".ls2.gamma"))}

    def group_matcher(self, coarse: bool = False) -> dict:
        """Layer groups, for layer-wise learning rates."""
        fine = [(r"^stages\.(\d+)\.downsample", (0,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None)]
        return dict(stem=r"^stem", blocks=r"^stages\.(\d+)" if coarse else fine)


def _stage_indices(stages: int, indices: int | Sequence[int] | None) -> tuple[list[int], int]:
    """timm's rule: None for all, an int for the last so many, negative ones from the end. And the highest of them."""
    if indices is None or isinstance(indices, int):
        count = stages if indices is None else indices
        take = list(range(stages - count, stages))
    else:
        take = [i + stages if i < 0 else i for i in indices]
    if not take or not all(0 <= i < stages for i in take):
        raise ValueError(f"indices={indices!r}: the network has stages 0 to {stages - 1}")
    return take, max(take)


def init_weights(module: nn.Module) -> None:
    """Linear weights from a normal of σ 0.02 truncated at ±2, biases 0; all else as PyTorch makes it."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
