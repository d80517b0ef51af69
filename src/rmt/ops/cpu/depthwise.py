"""Depthwise convolutions of tokens on a CPU by the kernels of `depthwise.cpp`.

They add tensors in the same pass and read views without a copy. GELU before the convolution is computed inside the
kernels. The backward pass reads the input and the gradient once, and is several times faster than PyTorch's. A linear
layer with gradients need not keep the result, since it can be computed again (`ops/torch/linear.py`).
"""

import ctypes
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmt.ops.autograd import direct
from rmt.ops.call import flat_tokens, needs_grad, result_dtype, tracing
from rmt.ops.cpu.build import load
from rmt.ops.flops import convolution, count_flops
from rmt.ops.second_order import depthwise_gradients, needs_formula


def depthwise_conv(
    x: Tensor, conv: nn.Conv2d, *, residual: bool, plus: Tensor | None, gelu: bool, shift: Tensor | None
) -> Tensor:
    """As `masa.depthwise_conv`; in autocast's dtype, or in that of a summand of higher precision.

    GELU is computed in the kernel, to 1e-6 in float32, except where `torch.compile` computes gradients.
    """
    dtype = result_dtype(x)
    for summand in (x if residual else None, plus):
        dtype = dtype if summand is None else torch.promote_types(dtype, summand.dtype)
    x, plus = x.to(dtype), None if plus is None else plus.to(dtype)
    eager = tracing(x) == "eager"
    if needs_grad(x, conv.weight, shift):
        if shift is not None:
            x, shift = x + shift, None
        if gelu and not eager:  # the compiler fuses GELU with what is before it
            x, gelu = F.gelu(x), False
    return (_eager_convolution if eager else _operator)(x, conv.weight, conv.bias, plus, shift, residual, gelu)


class _Convolution(ctypes.Structure):
    """`Convolution` of depthwise.cpp, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "plus", "dout", "weight", "bias", "shift", "out", "dweight")),
        *((f"{name}_{stride}", ctypes.c_int64) for name in ("x", "plus", "dout") for stride in ("image", "token")),
        *((name, ctypes.c_int64) for name in ("images", "height", "width", "channels", "gelu", "residual", "threads")),
    )


def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    plus: Tensor | None,
    shift: Tensor | None,
    residual: bool,
    gelu: bool,
) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype)
    tensors = dict(x=x, plus=plus, weight=_taps(weight), bias=bias, shift=shift, out=out)
    _call("depthwise_forward", tensors, weight.shape[-1], residual=residual, gelu=gelu)
    return out


def _gradients(dout: Tensor, x: Tensor, weight: Tensor, residual: bool, gelu: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Those of x, of the weight and of the bias, these two in the dtype of the weight."""
    size, channels = weight.shape[-1], x.shape[3]
    dx, dweight = torch.empty(x.shape, dtype=x.dtype), torch.empty(size * size + 1, channels)
    tensors: dict[str, Tensor | None] = dict(x=x, dout=dout, weight=_taps(weight), out=dx, dweight=dweight)
    _call("depthwise_backward", tensors, size, residual=residual, gelu=gelu)
    dweight = dweight.to(weight.dtype)
    return dx, dweight[:-1].t().reshape(weight.shape).contiguous(), dweight[-1].clone()


# For torch.compile; eager calls take `_eager_convolution`.
_operator = torch.library.custom_op("rmt::depthwise", _forward, mutates_args=(), device_types="cpu")
_backward_operator = torch.library.custom_op("rmt::depthwise_backward", _gradients, mutates_args=(), device_types="cpu")


@_operator.register_fake
def _(x, weight, *rest):
    return x.new_empty(x.shape)


@_backward_operator.register_fake
def _(dout, x, weight, residual, gelu):
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape[0])


def _setup_context(ctx, inputs, output) -> None:
    x, weight, bias, plus, _, ctx.residual, ctx.gelu = inputs
    ctx.save_for_backward(x, weight, bias)
    ctx.has_plus, ctx.unpacked = plus is not None, None


def _setup_eager_context(ctx, inputs, output) -> None:
    _setup_context(ctx, inputs, output)
    if not ctx.has_plus:
        ctx.recompute_output = _recompute


def _recompute(ctx) -> Tensor:
    """The result again, before its backward pass. With gradients, where those are enabled."""
    ctx.unpacked = ctx.saved_tensors  # activation checkpointing lets every tensor be unpacked once
    return _eager_convolution(*ctx.unpacked, None, None, ctx.residual, ctx.gelu)


def _backward(ctx, dout: Tensor, gradients=_backward_operator):
    (x, weight, bias), ctx.unpacked = ctx.unpacked or ctx.saved_tensors, None
    gradients = depthwise_gradients if needs_formula(dout) else gradients
    dx, dweight, dbias = gradients(dout, x, weight, residual=ctx.residual, gelu=ctx.gelu)
    return dx, dweight, None if bias is None else dbias, dout if ctx.has_plus else None, None, None, None


count_flops(torch.ops.rmt.depthwise, lambda x, weight, *rest: convolution(x, weight[-1]))
count_flops(torch.ops.rmt.depthwise_backward, lambda dout, x, weight, *rest: 2 * convolution(x, weight[-1]))
_operator.register_autograd(_backward, setup_context=_setup_context)
_eager_convolution = direct(_forward, _setup_eager_context, partial(_backward, gradients=_gradients))


def _taps(weight: Tensor) -> Tensor:
    """(C, 1, K, K) to (K·K, C) in float32."""
    return weight.detach().flatten(1).t().float().contiguous()


def _call(kernel: str, tensors: dict[str, Tensor | None], size: int, *, residual: bool, gelu: bool) -> None:
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    x = given["x"]
    if not x.numel():
        for name in given.keys() & {"out", "dweight"}:
            given[name].zero_()
        return
    numbers = dict(zip(("images", "height", "width", "channels"), x.shape, strict=True))
    for name in given.keys() & {"x", "plus", "dout"}:
        given[name] = tokens = flat_tokens(given[name])
        numbers |= {f"{name}_image": tokens.stride(0), f"{name}_token": tokens.stride(2)}
    for name in given.keys() & {"bias", "shift"}:
        given[name] = given[name].float()
    pointers = {name: tensor.data_ptr() for name, tensor in given.items()}
    problem = _Convolution(**pointers, **numbers, gelu=gelu, residual=residual, threads=torch.get_num_threads())
    getattr(load("depthwise.cpp", x.dtype, f"KERNEL={size}"), kernel)(ctypes.byref(problem))
