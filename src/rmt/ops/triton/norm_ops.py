"""LayerNorm: how the kernels are launched.

In eager mode only: PyTorch's compiler generates a LayerNorm itself and fuses it with its neighbours.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rmt.ops.second_order import gradients, is_recorded
from rmt.ops.triton import norm
from rmt.ops.triton.launch import launch_eager

# Elements that a program holds at a time, and its warps, forward and backward; measured on an H100.
FORWARD = (2048, 4)
BACKWARD = (1024, 1)
PROGRAMS = 1056  # among which the sums over tokens are divided


def _tile(channels: int, numbers: int) -> tuple[int, int]:
    """Tokens and channels that a program holds: all channels, padded to a power of two."""
    wide = 1 << max(4, (channels - 1).bit_length())
    return max(1, numbers // wide), wide


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, dtype: torch.dtype) -> Tensor:
    """LayerNorm over the last dimension of x, any shape, in `dtype`; computed in float32."""
    x = x.contiguous()
    out = torch.empty_like(x, dtype=dtype)
    channels = x.shape[-1]
    tokens = x.numel() // channels
    if not tokens:
        return out
    (held, wide), warps = _tile(channels, FORWARD[0]), FORWARD[1]
    scale, shift = (x, x) if weight is None or bias is None else (weight, bias)
    constants: dict[str, Any] = dict(EPS=eps, AFFINE=weight is not None, TOKENS=held, CHANNELS=wide, num_warps=warps)
    launch_eager(norm.layer_norm, (-(-tokens // held),), x, scale, shift, out, tokens, channels, **constants)
    return out


def add_layer_norm(x: Tensor, y: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x + y and its LayerNorm in `dtype`, without scale and shift, for x and y of one dtype."""
    x, y = x.contiguous(), y.contiguous()
    total, out = torch.empty_like(x), torch.empty_like(x, dtype=dtype)
    channels = x.shape[-1]
    tokens = x.numel() // channels
    if tokens:
        (held, wide), warps = _tile(channels, FORWARD[0]), FORWARD[1]
        constants: dict[str, Any] = dict(EPS=eps, TOKENS=held, CHANNELS=wide, num_warps=warps)
        launch_eager(norm.add_layer_norm, (-(-tokens // held),), x, y, total, out, tokens, channels, **constants)
    return total, out


class LayerNorm(torch.autograd.Function):
    """`layer_norm` and its gradients. Only x is saved; mean and variance are recomputed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return layer_norm(x, weight, bias, eps, dtype)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        if is_recorded(dout):
            normed = partial(F.layer_norm, normalized_shape=x.shape[-1:], eps=ctx.eps)
            dx, dweight = gradients(lambda x, weight: normed(x.float(), weight=weight.float()), (x, weight), dout)
            return dx, dweight, dout.flatten(0, -2).sum(0).to(weight.dtype), None, None
        x, dout = x.contiguous(), dout.contiguous()
        dx = torch.empty_like(x)
        channels = x.shape[-1]
        tokens = x.numel() // channels
        if not tokens:
            return dx, torch.zeros_like(weight), torch.zeros_like(weight), None, None
        (held, wide), warps = _tile(channels, BACKWARD[0]), BACKWARD[1]
        programs = min(PROGRAMS, -(-tokens // held))
        parts = torch.empty((2, programs, channels), dtype=torch.float32, device=x.device)
        constants: dict[str, Any] = dict(EPS=ctx.eps, TOKENS=held, CHANNELS=wide, num_warps=warps)
        launch_eager(norm.layer_norm_backward, (programs,), x, weight, dout, dx, parts, tokens, channels, **constants)
        dweight, dbias = parts.sum(1).to(weight.dtype)
        return dx, dweight, dbias, None, None
