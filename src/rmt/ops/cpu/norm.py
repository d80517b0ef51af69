"""LayerNorm of tokens on a CPU by the kernels of `norm.cpp`. In eager mode only."""

import ctypes

import torch
from torch import Tensor

from rmt.ops.autograd import direct_layer_norm
from rmt.ops.call import needs_grad
from rmt.ops.cpu.build import ELEMENTS, load


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
    recorded = weight is not None and needs_grad(x, weight, bias)
    return (_with_gradients if recorded else _forward)(x, weight, bias, eps, dtype)


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


def _gradients(dout: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Those of x, of the weight and of the bias, these two in the dtype of the weight."""
    dx, dweights = torch.empty(x.shape, dtype=x.dtype), torch.zeros(2, x.shape[-1])
    _call("layer_norm_backward", dout.dtype, eps, x=x, dout=dout, weight=weight, dx=dx, dweight=dweights)
    dweight, dbias = dweights.to(weight.dtype)
    return dx, dweight, dbias


_with_gradients = direct_layer_norm(_forward, _gradients)


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
