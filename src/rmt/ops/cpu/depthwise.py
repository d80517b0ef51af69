"""Depthwise convolutions of tokens on a CPU by the kernels of `depthwise.cpp`.

They add a tensor in the same pass, read views without a copy, and have a backward pass several times faster than
PyTorch's. For inference the addition of a bias and GELU before the convolution are applied inside the kernel.
"""

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmt.ops.call import flat_tokens, needs_grad, result_dtype, tracing
from rmt.ops.cpu.build import load
from rmt.ops.second_order import depthwise_gradients, is_recorded


def depthwise_conv(
    x: Tensor, conv: nn.Conv2d, *, residual: bool, plus: Tensor | None, gelu: bool, shift: Tensor | None
) -> Tensor:
    """As `masa.depthwise_conv`; in autocast's dtype, or in that of a summand of higher precision.

    For inference without `plus`, GELU is computed in the kernel, to 1e-6 in float32.
    """
    dtype = result_dtype(x)
    for summand in (x if residual else None, plus):
        dtype = dtype if summand is None else torch.promote_types(dtype, summand.dtype)
    x, plus = x.to(dtype), None if plus is None else plus.to(dtype)
    if residual and plus is not None:  # the kernel adds one tensor
        return plus + depthwise_conv(x, conv, residual=True, plus=None, gelu=gelu, shift=shift)
    weight, bias = conv.weight, conv.bias
    if gelu and plus is None and not needs_grad(x, weight):
        return _gelu_depthwise(x, shift, weight, bias, residual)
    x = x if shift is None else x + shift
    if gelu and plus is None and tracing(x) == "eager":
        return _GeluDepthwise.apply(x, weight, bias, residual)
    return _depthwise(F.gelu(x) if gelu else x, weight, bias, plus, residual)


class _Convolution(ctypes.Structure):
    """`Convolution` of depthwise.cpp, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "plus", "weight", "bias", "shift", "out")),
        *((name, ctypes.c_int64) for name in ("x_image", "x_token", "plus_image", "plus_token")),
        *((name, ctypes.c_int64) for name in ("images", "height", "width", "channels", "gelu", "threads")),
    )


@torch.library.custom_op("rmt::depthwise", mutates_args=(), device_types="cpu")
def _depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, plus: Tensor | None, residual: bool) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype)
    x = flat_tokens(x)
    _call("depthwise_forward", x, x if residual else plus, _taps(weight), bias, out, weight.shape[-1])
    return out


@_depthwise.register_fake
def _(x, weight, bias, plus, residual):
    return x.new_empty(x.shape)


@torch.library.custom_op("rmt::gelu_depthwise", mutates_args=(), device_types="cpu")
def _gelu_depthwise(x: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor | None, residual: bool) -> Tensor:
    out, taps = torch.empty(x.shape, dtype=x.dtype), _taps(weight)
    if residual:  # GELU's output is nowhere in memory to be added: it is, by the centre of the kernel
        taps = taps.clone()
        taps[len(taps) // 2] += 1
    _call("depthwise_forward", flat_tokens(x), None, taps, bias, out, weight.shape[-1], shift, gelu=True)
    return out


@_gelu_depthwise.register_fake
def _(x, shift, weight, bias, residual):
    return x.new_empty(x.shape)


@torch.library.custom_op("rmt::depthwise_backward", mutates_args=(), device_types="cpu")
def _depthwise_backward(grad: Tensor, x: Tensor, weight: Tensor, residual: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, of the weight and of the bias, these two in the dtype of the weight."""
    size, channels = weight.shape[-1], x.shape[3]
    grad, x = flat_tokens(grad), flat_tokens(x)
    dx, taps = torch.empty(x.shape, dtype=x.dtype), torch.empty(size * size + 1, channels)
    _call("depthwise_forward", grad, grad if residual else None, _taps(weight.flip(2, 3)), None, dx, size)
    _call("depthwise_weight_gradient", x, grad, None, None, taps, size)
    taps = taps.to(weight.dtype)
    return dx, taps[:-1].t().reshape(weight.shape).contiguous(), taps[-1].clone()


@_depthwise_backward.register_fake
def _(grad, x, weight, residual):
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape[0])


def _setup_context(ctx, inputs, output) -> None:
    x, weight, bias, plus, ctx.residual = inputs
    ctx.save_for_backward(x, weight)
    ctx.has_bias, ctx.has_plus = bias is not None, plus is not None


def _backward(ctx, grad: Tensor):
    if is_recorded(grad):
        dx, dweight, dbias = depthwise_gradients(grad, *ctx.saved_tensors, residual=ctx.residual, gelu=False)
    else:
        dx, dweight, dbias = _depthwise_backward(grad, *ctx.saved_tensors, ctx.residual)
    return dx, dweight, dbias if ctx.has_bias else None, grad if ctx.has_plus else None, None


_depthwise.register_autograd(_backward, setup_context=_setup_context)


class _GeluDepthwise(torch.autograd.Function):
    """The convolution of GELU(x). Saves only x and recomputes GELU in the backward pass: a seventh less memory."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, residual: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.residual, ctx.has_bias = residual, bias is not None
        return _depthwise(F.gelu(x), weight, bias, None, residual)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        if is_recorded(grad):
            dx, dweight, dbias = depthwise_gradients(grad, x, weight, residual=ctx.residual, gelu=True)
            return dx, dweight, dbias if ctx.has_bias else None, None
        dh, dweight, dbias = _depthwise_backward(grad, F.gelu(x), weight, ctx.residual)
        return torch.ops.aten.gelu_backward(dh, x), dweight, dbias if ctx.has_bias else None, None


def _taps(weight: Tensor) -> Tensor:
    """(C, 1, K, K) to (K·K, C) in float32."""
    return weight.detach().flatten(1).t().float().contiguous()


def _call(kernel: str, x, plus, taps, bias, out, size: int, shift: Tensor | None = None, gelu: bool = False) -> None:
    if not x.numel():
        out.zero_()
        return
    plus = None if plus is None else flat_tokens(plus)
    bias, shift = (None if t is None else t.float() for t in (bias, shift))
    plus_strides = (0, 0) if plus is None else (plus.stride(0), plus.stride(2))
    problem = _Convolution(
        *(None if t is None else t.data_ptr() for t in (x, plus, taps, bias, shift, out)),
        *(x.stride(0), x.stride(2), *plus_strides),
        *(*x.shape, gelu, torch.get_num_threads()),
    )
    getattr(load("depthwise.cpp", x.dtype, f"KERNEL={size}"), kernel)(ctypes.byref(problem))
