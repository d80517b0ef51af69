"""LayerNorm of tokens on a CPU by the kernels of `norm.cpp`. In eager mode only."""

import ctypes
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rmt.ops.call import needs_grad
from rmt.ops.cpu.build import ELEMENTS, load
from rmt.ops.second_order import gradients, is_recorded


class _Norm(ctypes.Structure):
    """`Norm` of norm.cpp, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "plus", "dout", "weight", "bias", "sum", "dx", "out", "dweight")),
        *((name, ctypes.c_int64) for name in ("rows", "channels", "threads")),
        ("eps", ctypes.c_double),
    )


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, dtype: torch.dtype) -> Tensor:
    """LayerNorm of x (…, C) over the last dimension in `dtype`, with scale and shift (C,) or without both.

    With gradients if it has a weight.
    """
    if weight is None or not needs_grad(x, weight, bias):
        return _forward(x, weight, bias, eps, dtype)
    return _LayerNorm.apply(x, weight, bias, eps, dtype)


def add_layer_norm(x: Tensor, y: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x + y and its LayerNorm in `dtype` without scale and shift, in one pass: (…, C) each."""
    total, out = torch.empty(x.shape, dtype=x.dtype), torch.empty(x.shape, dtype=dtype)
    _call("layer_norm", dtype, eps, x=x.contiguous(), plus=y.contiguous(), sum=total, out=out)
    return total, out


def result_define(dtype: torch.dtype) -> str:
    """The definition with which norm.cpp is compiled for results of this dtype."""
    return f"RESULT={ELEMENTS[dtype]}"


def _forward(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, dtype: torch.dtype) -> Tensor:
    x, out = x.contiguous(), torch.empty(x.shape, dtype=dtype)
    _call("layer_norm", dtype, eps, x=x, weight=weight, bias=bias, out=out)
    return out


class _LayerNorm(torch.autograd.Function):
    """`_forward` and its gradients. Only x is saved; mean and variance are recomputed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return _forward(x, weight, bias, eps, dtype)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        if is_recorded(dout):
            normed = partial(F.layer_norm, normalized_shape=x.shape[-1:], eps=ctx.eps)
            dx, dweight = gradients(lambda x, weight: normed(x.float(), weight=weight.float()), (x, weight), dout)
            return dx, dweight, dout.flatten(0, -2).sum(0).to(weight.dtype), None, None
        x, dx, dweights = x.contiguous(), torch.empty(x.shape, dtype=x.dtype), torch.zeros(2, x.shape[-1])
        tensors = dict(x=x, dout=dout.contiguous(), weight=weight, dx=dx, dweight=dweights)
        _call("layer_norm_backward", dout.dtype, ctx.eps, **tensors)
        dweight, dbias = dweights.to(weight.dtype)
        return dx, dweight, dbias, None, None


def _call(kernel: str, dtype: torch.dtype, eps: float, **tensors: Tensor | None) -> None:
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    x = given["x"]
    if not x.numel():
        return
    for name in given.keys() & {"weight", "bias"}:
        given[name] = given[name].detach().float().contiguous()
    channels = x.shape[-1]
    sizes = dict(rows=x.numel() // channels, channels=channels, threads=torch.get_num_threads())
    problem = _Norm(**{name: tensor.data_ptr() for name, tensor in given.items()}, **sizes, eps=eps)
    getattr(load("norm.cpp", x.dtype, result_define(dtype)), kernel)(ctypes.byref(problem))
