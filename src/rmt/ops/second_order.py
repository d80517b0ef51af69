"""Gradients by the formula in plain PyTorch, for the backward passes of kernels, where those cannot serve.

With `create_graph=True` PyTorch records operations in a backward pass, to differentiate them again. With
`is_grads_batched=True` it calls a backward pass with many gradients at once, by vmap. A kernel then hands over to the
formula, applied to the tensors that it has saved.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rmt.ops.call import tracing
from rmt.ops.masa import Decay, MaSAConfig, SpatialPrior, log_decay, manhattan_attention


def needs_formula(dout: Tensor) -> bool:
    """Whether a backward pass, called with the gradient `dout`, is to be differentiated itself, or mapped by vmap."""
    if torch._C._functorch.is_legacy_batchedtensor(dout):  # of `is_grads_batched`
        return True
    return torch.is_grad_enabled() and tracing(dout) == "eager"


def gradients(function: Callable[..., Tensor], inputs: Sequence[Tensor], dout: Tensor) -> tuple[Any, ...]:
    """The gradients of function(*inputs) for the gradient `dout` of its result; None for inputs that need none."""
    recorded = torch.is_grad_enabled()
    with torch.enable_grad():
        out = function(*inputs)
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    found = iter(torch.autograd.grad(out, wanted, dout.to(out.dtype), create_graph=recorded))
    return tuple(next(found) if tensor.requires_grad else None for tensor in inputs)


def attention_gradients(
    dout: Tensor, tensors: Sequence[Tensor], *, decomposed: bool, half_split: bool, decay: bool, scale: float
) -> tuple[Any, ...]:
    """Those of q, k and v in `masa.manhattan_attention` with these settings of `MaSAConfig`.

    `tensors`: q, k, v, and sin, cos and log_gamma of the prior.
    """
    q, k, v, sin, cos, log_gamma = tensors
    rows, columns = (log_decay(length, log_gamma) for length in q.shape[1:3])
    prior = SpatialPrior(sin, cos, rows, columns, log_gamma)
    kind: Decay = "released" if decay else "none"  # the rates are in the prior
    config = MaSAConfig(decomposed, decay=kind, decay_range=(0.0, 0.0), scale=scale, half_split=half_split)
    return gradients(lambda q, k, v: manhattan_attention(q, k, v, prior, config), (q, k, v), dout)


def depthwise_gradients(
    dout: Tensor, x: Tensor, weight: Tensor, *, residual: bool, gelu: bool
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Those of x, weight and bias in `masa.depthwise_conv`, for tokens x (B, h, w, C)."""

    def convolve(x: Tensor, weight: Tensor) -> Tensor:
        y = F.gelu(x) if gelu else x
        size, channels = weight.shape[-1], weight.shape[0]
        out = F.conv2d(y.permute(0, 3, 1, 2), weight.to(y.dtype), padding=size // 2, groups=channels)
        return out.permute(0, 2, 3, 1) + y if residual else out.permute(0, 2, 3, 1)

    dx, dweight = gradients(convolve, (x, weight), dout)
    return dx, dweight, dout.sum((0, 1, 2)).to(weight.dtype)


def layer_norm_gradients(dout: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor | None, ...]:
    """Those of x, weight and bias in LayerNorm over the last dimension, computed in float32."""

    def normed(x: Tensor, weight: Tensor) -> Tensor:
        return F.layer_norm(x.float(), x.shape[-1:], weight.float(), eps=eps)

    dx, dweight = gradients(normed, (x, weight), dout)
    return dx, dweight, dout.flatten(0, -2).sum(0).to(weight.dtype)
