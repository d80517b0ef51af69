"""Rewrite a trained network for inference: fewer operations, the same function.

| folded | into |
|---|---|
| BatchNorm | the convolution or linear before it |
| x + CPE(x), h + DWConv(h) | the centre of the depthwise kernel |
| LayerNorm's scale and shift | the next linear |
| d^−½ | the key weights |
| layer scales | the output projections |
| q, k, v (and gate) | one linear |
| adjacent rotary pairs | half-split ones, by permuting the rows of q and k |

Computed in float64 and rounded once.
"""

import copy
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from timm.layers import LayerScale
from torch import Tensor, nn

from rmt.errors import RMTError
from rmt.model.rmt import RMT, Block, FeedForward, Head, ManhattanSelfAttention, PatchMerging, gated
from rmt.ops import MaSAConfig, SpatialPrior, add_layer_norm, depthwise_conv, fuses_gelu, layer_norm, linear

Network = TypeVar("Network", bound=nn.Module)


def deploy(model: Network, *, tolerance: float = 0.0) -> Network:
    """A copy of `model` for inference: equal outputs, fewer operations, no gradients.

    Args:
        model: an RMT, or any module that contains one (timm's `features_only` wrapper, a detector). It is not changed.
        tolerance: 0 for exact attention. Otherwise each head attends within a window such that the weights outside it
            sum to less than this, by the proof in `ops/windows.py`. This saves time on large images, with backends that
            have windows (`native`, `triton`), and none on small ones.
    Returns:
        A network of the same class with the same methods, in eval mode. Its parameters have other names and shapes:
        save the trained network, not this one. Outputs agree to 1e-5 in float32 and 1e-10 in float64 (relative).
    """
    if not any(isinstance(module, RMT) for module in model.modules()):
        raise RMTError(f"deploy rewrites RMT networks, and this {type(model).__name__} contains none: use it as it is")
    device = next(model.parameters()).device
    model = copy.deepcopy(model).eval().requires_grad_(False)
    if device.type == "mps":  # it has no float64, in which the weights are computed
        model = model.cpu()
    for network in [module for module in model.modules() if isinstance(module, RMT)]:
        _fold_network(network, tolerance)
    model = model.to(memory_format=torch.channels_last)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.groups == module.out_channels:
            _lay_out_taps(module)
    return model.to(device) if device.type == "mps" else model


def _fold_network(network: RMT, tolerance: float) -> None:
    stage: Any
    if isinstance(network.stem, nn.Sequential):
        _fold_batch_norms(network.stem)
    for stage in network.stages:
        if isinstance(stage.downsample, nn.Sequential):
            _fold_batch_norms(stage.downsample)
        elif isinstance(stage.downsample, PatchMerging):
            _fold_layer_norm(stage.downsample.norm, stage.downsample.reduction)
        for i, block in enumerate(stage.blocks):
            if isinstance(block, Block):  # otherwise it is deployed already
                stage.blocks[i] = block = DeployedBlock(block)
            block.attn.config = block.attn.config._replace(tolerance=tolerance)
    _fold_head(network.head)


class DeployedAttention(nn.Module):
    """ManhattanSelfAttention with one linear for q, k, v, gate and half-split rotary pairs."""

    num_heads: int
    head_dim: int
    decay_range: tuple[float, float]
    phases: str
    gate_norm: nn.GroupNorm | None

    def __init__(self, attn: ManhattanSelfAttention) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.decay_range = attn.num_heads, attn.head_dim, attn.decay_range
        self.phases, self.gate_norm = attn.phases, attn.gate_norm
        self.attend: Callable[..., Tensor] = attn.attend
        self.config: MaSAConfig = attn.config._replace(scale=1.0, half_split=True)
        q, k, v = ([linear.weight.double(), linear.bias.double()] for linear in (attn.q, attn.k, attn.v))
        rows = _half_split_rows(attn.num_heads, attn.head_dim, q[0].device)
        parts = [[t[rows] for t in q], [t[rows] * attn.config.scale for t in k], v]
        if attn.gate is not None:
            parts.append([attn.gate.weight.double(), torch.zeros_like(v[1])])
        weights, biases = zip(*parts, strict=True)
        self.qkv: nn.Linear = _linear(torch.cat(weights), torch.cat(biases), like=attn.q)
        self.lce: nn.Conv2d | None = attn.lce
        self.proj: nn.Linear = attn.proj

    prior: ClassVar[Callable[..., SpatialPrior]] = ManhattanSelfAttention.prior

    def forward(self, x: Tensor, prior: SpatialPrior) -> Tensor:
        qkv = linear(x, self.qkv.weight, self.qkv.bias)
        q, k, v, *gate = qkv.unflatten(-1, (-1, self.num_heads, self.head_dim)).unbind(-3)  # (B, h, w, n, d)
        out = self.attend(q, k, v, prior, self.config).flatten(-2)
        if self.gate_norm is not None:
            out = gated(out, gate[0].flatten(-2), self.gate_norm)
        if self.lce is not None:
            out = depthwise_conv(v.flatten(-2), self.lce, plus=out)
        return linear(out, self.proj.weight, self.proj.bias)


class DeployedFeedForward(nn.Module):
    """residual + FeedForward(x), with h + DWConv(h) as one convolution: (B, h, w, C) -> (B, h, w, C)."""

    fc1: nn.Linear
    fc2: nn.Linear

    def __init__(self, mlp: FeedForward) -> None:
        super().__init__()
        self.fc1, self.fc2 = mlp.fc1, mlp.fc2
        self.dwconv: nn.Conv2d | None = _with_identity(mlp.dwconv) if mlp.dwconv is not None else None

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        if self.dwconv is not None and fuses_gelu(x, self.dwconv):
            # The bias is added in the kernel.
            x = depthwise_conv(linear(x, self.fc1.weight), self.dwconv, gelu=True, shift=self.fc1.bias)
        elif self.dwconv is not None:
            x = depthwise_conv(self.fc1(x), self.dwconv, gelu=True)
        else:
            x = F.gelu(self.fc1(x))
        return _add_linear(residual, x, self.fc2)


class DeployedBlock(nn.Module):
    """Block without layer scales, stochastic depth, or scale and shift in its norms: (B, h, w, C) -> (B, h, w, C)."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.cpe: nn.Conv2d | None = _with_identity(block.cpe) if block.cpe is not None else None
        self.eps: tuple[float, float] = (block.norm1.eps, block.norm2.eps)
        self.attn: DeployedAttention = DeployedAttention(block.attn)
        self.mlp: DeployedFeedForward = DeployedFeedForward(block.mlp)
        _fold_layer_norm(block.norm1, self.attn.qkv)
        _fold_layer_norm(block.norm2, self.mlp.fc1)
        _fold_layer_scale(block.ls1, self.attn.proj)
        _fold_layer_scale(block.ls2, self.mlp.fc2)

    def forward(self, x: Tensor, prior: SpatialPrior) -> Tensor:
        if self.cpe is not None:
            x = depthwise_conv(x, self.cpe)
        x, normalised = add_layer_norm(x, self.attn(layer_norm(x, eps=self.eps[0]), prior), eps=self.eps[1])
        return self.mlp(normalised, residual=x)


def _add_linear(residual: Tensor, x: Tensor, linear: nn.Linear) -> Tensor:
    """residual + linear(x), on tokens (B, h, w, C).

    On a CPU the product is accumulated into residual + bias: PyTorch's linear would start from copies of the bias, and
    the sum with the residual would be another pass.
    """
    if x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return residual + linear(x)
    sums = (residual + linear.bias).contiguous()
    sums.view(-1, sums.shape[3]).addmm_(x.flatten(0, 2), linear.weight.t())
    return sums


def _half_split_rows(num_heads: int, head_dim: int, device: torch.device) -> Tensor:
    """The order of the rows of q and k in which the pairs (2j, 2j+1) of each head become (j, j + d/2)."""
    rows = torch.arange(num_heads * head_dim, device=device)
    return rows.view(num_heads, head_dim // 2, 2).transpose(1, 2).flatten()


def _linear(weight: Tensor, bias: Tensor, like: nn.Linear) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta").requires_grad_(False)
    linear.weight = nn.Parameter(weight.to(like.weight.dtype), requires_grad=False)
    linear.bias = nn.Parameter(bias.to(like.weight.dtype), requires_grad=False)
    return linear


def _set(parameter: Tensor, value: Tensor) -> None:
    parameter.copy_(value.to(parameter.dtype))


def _with_identity(conv: nn.Conv2d) -> nn.Conv2d:
    """x + conv(x) as one depthwise convolution: 1 is added to the kernel's centre."""
    height, width = conv.weight.shape[2:]
    kernel = conv.weight.double()
    kernel[:, :, height // 2, width // 2] += 1
    _set(conv.weight, kernel)
    return conv


def _lay_out_taps(conv: nn.Conv2d) -> None:
    """Store depthwise weights as (kh·kw, C), the layout that the kernels read; otherwise every call transposes them."""
    taps = conv.weight.flatten(1).t().contiguous()
    conv.weight = nn.Parameter(taps.t().view(conv.weight.shape), requires_grad=False)


def _fold_layer_norm(norm: nn.LayerNorm, linear: nn.Linear) -> None:
    """linear(norm(x)) = W·(γ∘x̂ + β) + b: γ scales the columns of W, W·β joins the bias. The norm loses both."""
    if not norm.elementwise_affine:
        return
    weight, bias = linear.weight.double(), norm.bias.double()
    shift = weight @ bias + (linear.bias.double() if linear.bias is not None else 0)
    _set(linear.weight, weight * norm.weight.double())
    linear.bias = nn.Parameter(shift.to(linear.weight.dtype), requires_grad=False)
    norm.weight, norm.bias, norm.elementwise_affine = None, None, False  # type: ignore[assignment]


def _fold_layer_scale(scale: nn.Module, linear: nn.Linear) -> None:
    if isinstance(scale, LayerScale):
        gamma = scale.gamma.double()
        _set(linear.weight, linear.weight.double() * gamma[:, None])
        _set(linear.bias, linear.bias.double() * gamma)


def _fold_batch_norm(layer: nn.Conv2d | nn.Linear, norm: nn.BatchNorm2d) -> None:
    """norm(layer(x)) = s∘(layer(x) − μ) + β with s = γ/√(σ² + ε): s scales the output rows."""
    scale = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()  # type: ignore[union-attr]
    _set(layer.bias, (layer.bias.double() - norm.running_mean.double()) * scale + norm.bias.double())  # type: ignore
    _set(layer.weight, layer.weight.double() * scale.view(-1, *[1] * (layer.weight.ndim - 1)))


def _fold_batch_norms(layers: nn.Sequential) -> None:
    for i, norm in enumerate(layers):
        # A norm behind a pooling is kept: with a negative scale the maximum would become a minimum.
        if isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm) and isinstance(layers[i - 1], nn.Conv2d):
            _fold_batch_norm(layers[i - 1], norm)  # type: ignore[arg-type]
            layers[i] = nn.Identity()


def _fold_head(head: Head) -> None:
    """Fold BatchNorm into the projection. A norm without one is kept: with `pre_logits=True` its output is returned."""
    if isinstance(head.proj, nn.Linear) and isinstance(head.norm, nn.BatchNorm2d | nn.SyncBatchNorm):
        _fold_batch_norm(head.proj, head.norm)  # type: ignore[arg-type]
        head.norm = nn.Identity()
