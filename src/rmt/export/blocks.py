"""Deployed blocks rewritten for graphs of one fixed size: the same function, in a form that runtimes run faster.

| in the deployed block | here | because |
|---|---|---|
| tokens (1, h, w, C) | (h·w, C) | OpenVINO reorders four dimensions between convolutions and linears |
| one linear for q, k, v | three | nothing has to be split |
| rotation of (h, w, n, d/2) | of (1, n, h·w, d), x·cos + (−b, a)·sin | OpenVINO has an operator for it |
| attention of (h, w, n, d) | of (n, h, w, d) | rows need no transpose, columns exchange two dimensions |
| decay and phases of the stage | constants | the size is fixed |
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmt.model.deploy import DeployedBlock, DeployedFeedForward
from rmt.model.rmt import RMT, ManhattanSelfAttention, Stage
from rmt.ops import SpatialPrior
from rmt.ops.masa import manhattan_log_decay


def rewrite_blocks(network: nn.Module, *, fused: bool = False) -> None:
    """Replace the blocks of each deployed RMT in `network` where `GraphBlock` computes the same.

    Args:
        fused: attention as one operator, scaled_dot_product_attention, instead of products and softmax.
    """
    for module in network.modules():
        if isinstance(module, RMT):
            for stage in module.stages:
                blocks = cast(Stage, stage).blocks
                for i, block in enumerate(blocks):
                    if isinstance(block, DeployedBlock) and GraphBlock.suits(block):
                        blocks[i] = GraphBlock(block, fused)


class GraphBlock(nn.Module):
    """A `DeployedBlock` for one image: (1, h, w, C) -> (1, h, w, C)."""

    cpe: nn.Conv2d | None
    eps: tuple[float, float]
    mlp: DeployedFeedForward

    def __init__(self, block: DeployedBlock, fused: bool = False) -> None:
        super().__init__()
        self.fused = fused
        attn = block.attn
        self.attn = attn  # `Stage` asks it for the prior
        self.cpe, self.eps, self.mlp = block.cpe, block.eps, block.mlp
        self.projections: nn.ModuleList = nn.ModuleList(
            _linear(weight, bias)
            for weight, bias in zip(attn.qkv.weight.chunk(3), cast(Tensor, attn.qkv.bias).chunk(3), strict=True)
        )

    @staticmethod
    def suits(block: DeployedBlock) -> bool:
        """Whether the attention is MaSA with a softmax and the decay before it, or none."""
        config = block.attn.config
        ours = block.attn.attend is ManhattanSelfAttention.attend
        return ours and config.softmax and config.decay in ("released", "none")

    def forward(self, x: Tensor, prior: SpatialPrior) -> Tensor:
        _, height, width, channels = x.shape
        grid = (height, width)
        x = x.reshape(height * width, channels)
        if self.cpe is not None:
            x = _convolve(x, self.cpe, grid)
        normalised = F.layer_norm(x, (channels,), eps=self.eps[0])
        q, k, v = (projection(normalised) for projection in self.projections)
        out = self._attend(q, k, v, prior, grid)
        if self.attn.lce is not None:
            out = out + _convolve(v, self.attn.lce, grid)
        x = x + self.attn.proj(out)
        hidden = F.gelu(self.mlp.fc1(F.layer_norm(x, (channels,), eps=self.eps[1])))
        if self.mlp.dwconv is not None:
            hidden = _convolve(hidden, self.mlp.dwconv, grid)
        return (x + self.mlp.fc2(hidden)).view(1, height, width, channels)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, prior: SpatialPrior, grid: tuple[int, int]) -> Tensor:
        """MaSA of q, k, v (h·w, C), to (h·w, C)."""
        heads = (self.attn.num_heads, self.attn.head_dim)
        q, k, v = (t.view(1, -1, *heads).transpose(1, 2) for t in (q, k, v))  # (1, n, h·w, d)
        if self.attn.config.phases != "none":
            sin, cos = (torch.cat((t, t), -1).view(1, 1, -1, heads[1]) for t in (prior.sin, prior.cos))
            q, k = (_rotate(t, sin, cos).to(v.dtype) for t in (q, k))  # the phases are in float32
        decays = self.attn.config.decay != "none"
        if not self.attn.config.decomposed:
            out = self._softmax(q, k, v, manhattan_log_decay(prior)[None] if decays else None)
            return out.transpose(1, 2).flatten(2)[0]
        q, k, v = (t.reshape(heads[0], *grid, heads[1]) for t in (q, k, v))  # (n, h, w, d)
        out = self._softmax(q, k, v, prior.log_decay_w[:, None] if decays else None)
        q, k, out = (t.transpose(1, 2) for t in (q, k, out))  # (n, w, h, d)
        out = self._softmax(q, k, out, prior.log_decay_h[:, None] if decays else None)
        return out.permute(2, 1, 0, 3).reshape(-1, heads[0] * heads[1])

    def _softmax(self, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None) -> Tensor:
        """Attention along the third dimension of (n, lines, length, d)."""
        if self.fused:
            mask = None if log_decay is None else log_decay.to(q.dtype)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
        scores = q @ k.transpose(-1, -2)
        weights = (scores if log_decay is None else scores + log_decay).softmax(-1)
        return weights.to(v.dtype) @ v  # the decay is in float32


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight = nn.Parameter(weight.clone(), requires_grad=False)
    linear.bias = nn.Parameter(bias.clone(), requires_grad=False)
    return linear


def _convolve(x: Tensor, conv: nn.Conv2d, grid: tuple[int, int]) -> Tensor:
    """A convolution that keeps the size of the grid, of tokens (h·w, C)."""
    out = conv(x.view(1, *grid, -1).permute(0, 3, 1, 2))
    return out.permute(0, 2, 3, 1).reshape(grid[0] * grid[1], -1)


def _rotate(x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """Rotate the channel pairs (j, j + d/2) of x (1, n, h·w, d), as `masa.rotate`.

    OpenVINO makes this its rotary operator, with the transpose before it, only as it is written here: parts along
    dimension 3, joined along −1, and a factor of −1 instead of a negation.
    """
    a, b = x.chunk(2, 3)
    return x * cos + torch.cat((b * -1.0, a), -1) * sin
