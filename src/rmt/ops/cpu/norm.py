"""LayerNorm of tokens on a CPU by the kernel of `norm.cpp`, for inference."""

import ctypes

import torch
from torch import Tensor

from rmt.ops.cpu.build import load


class _Norm(ctypes.Structure):
    """`Norm` of norm.cpp, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "plus", "weight", "bias", "sum", "out")),
        *((name, ctypes.c_int64) for name in ("rows", "channels", "threads")),
        ("eps", ctypes.c_double),
    )


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """LayerNorm of x (…, C) over the last dimension, with scale and shift (C,) or without both."""
    x, out = x.contiguous(), torch.empty(x.shape, dtype=x.dtype)
    _call(x, None, weight, bias, None, out, eps)
    return out


def add_layer_norm(x: Tensor, y: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x + y and its LayerNorm without scale and shift, in one pass: (…, C) each."""
    total, out = torch.empty(x.shape, dtype=x.dtype), torch.empty(x.shape, dtype=x.dtype)
    _call(x.contiguous(), y.contiguous(), None, None, total, out, eps)
    return total, out


def _call(x, plus, weight, bias, total, out, eps: float) -> None:
    if not x.numel():
        return
    channels = x.shape[-1]
    weight, bias = (None if t is None else t.detach().float().contiguous() for t in (weight, bias))
    problem = _Norm(
        *(None if t is None else t.data_ptr() for t in (x, plus, weight, bias, total, out)),
        *(x.numel() // channels, channels, torch.get_num_threads(), eps),
    )
    load("norm.cpp", x.dtype).layer_norm(ctypes.byref(problem))
