"""LayerNorm: how the kernels are launched.

In eager mode only: PyTorch's compiler generates a LayerNorm itself and fuses it with its neighbours.
"""

from typing import Any

import torch
from torch import Tensor

from rmt.ops.autograd import direct_layer_norm
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


def _gradients(dout: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Those of x, of the weight and of the bias, these two in the dtype of the weight."""
    dx = torch.empty_like(x)
    channels = x.shape[-1]
    tokens = x.numel() // channels
    if not tokens:
        return dx, torch.zeros_like(weight), torch.zeros_like(weight)
    (held, wide), warps = _tile(channels, BACKWARD[0]), BACKWARD[1]
    programs = min(PROGRAMS, -(-tokens // held))
    parts = torch.empty((2, programs, channels), dtype=torch.float32, device=x.device)
    constants: dict[str, Any] = dict(EPS=eps, TOKENS=held, CHANNELS=wide, num_warps=warps)
    launch_eager(norm.layer_norm_backward, (programs,), x, weight, dout, dx, parts, tokens, channels, **constants)
    dweight, dbias = parts.sum(1).to(weight.dtype)
    return dx, dweight, dbias


layer_norm_with_gradients = direct_layer_norm(layer_norm, _gradients)
