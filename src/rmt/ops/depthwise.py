"""Depthwise convolution of tokens, with what is added to its result: x + CPE(x), h + DWConv(h), attention + LCE(v).
For inference on a CPU, bias and GELU before it come with it.

On a CPU in float32 and on NVIDIA GPUs by kernels of our own, which add in the same pass, take views as they are and, on
a CPU, have a backward pass several times faster than PyTorch's; otherwise by `conv2d`. Equal to 1e-5 in float32
(relative to the largest value).
"""

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmt.ops import triton
from rmt.ops.cpu.build import load, why_not
from rmt.ops.decay import being_captured
from rmt.ops.dispatch import allows, result_dtype, takes_triton
from rmt.ops.form import being_exported


def depthwise(x: Tensor, conv: nn.Conv2d, plus: Tensor | None = None) -> Tensor:
    """plus + conv(x), or conv(x), for tokens (B, h, w, C) and a depthwise convolution that keeps the grid."""
    if _native_serves(x, conv):
        identity = plus is x
        return _depthwise(x, conv.weight, conv.bias, None if identity else plus, identity)
    if takes_triton(x) and not being_exported() and triton.convolves():
        dtype = result_dtype(x)
        dtype = dtype if plus is None else torch.promote_types(dtype, plus.dtype)
        return triton.convolve(x, conv.weight, conv.bias, plus, dtype)
    out = conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return out if plus is None else plus + out


def fuses_gelu(x: Tensor, conv: nn.Conv2d) -> bool:
    """Whether `gelu_depthwise` on a CPU adds a shift and applies GELU at no cost: the native kernel, for inference."""
    return _native_serves(x, conv) and not (torch.is_grad_enabled() and (x.requires_grad or conv.weight.requires_grad))


def gelu_depthwise(x: Tensor, conv: nn.Conv2d, identity: bool, shift: Tensor | None = None) -> Tensor:
    """h + conv(h), or conv(h) without `identity`, with h = GELU(x [+ shift]): x (B, h, w, C), shift (C).

    h may not be kept for gradients. Where `fuses_gelu` and without `identity`, neither the sum nor h is ever written
    to memory, and GELU is the exact one to 1e-6.
    """
    if not identity and fuses_gelu(x, conv):
        return _gelu_depthwise(x, shift, conv.weight, conv.bias)
    x = x if shift is None else x + shift
    if torch.is_grad_enabled() and takes_triton(x) and not being_exported() and triton.convolves():
        return triton.convolve(x, conv.weight, conv.bias, x if identity else None, result_dtype(x), gelu=True)
    if _native_serves(x, conv) and not being_captured(x):
        return _GeluDepthwise.apply(x, conv.weight, conv.bias, identity)
    x = F.gelu(x)  # whose argument is free now, where the caller has not kept it
    return depthwise(x, conv, plus=x if identity else None)


def _native_serves(x: Tensor, conv: nn.Conv2d) -> bool:
    return (
        allows("native")
        and x.device.type == "cpu"
        and x.dtype == conv.weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and x.shape[3] % 16 == 0
        and not being_exported()
        and _why_not(conv.kernel_size[0]) is None
    )


@torch.compiler.assume_constant_result
def _why_not(kernel_size: int) -> str | None:
    return why_not("depthwise.cpp", f"KERNEL={kernel_size}")


class _Convolution(ctypes.Structure):
    """`Convolution` of depthwise.cpp, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "plus", "weight", "bias", "shift", "out")),
        *((name, ctypes.c_int64) for name in ("x_image", "x_token", "plus_image", "plus_token")),
        *((name, ctypes.c_int64) for name in ("images", "height", "width", "channels", "gelu", "threads")),
    )


@torch.library.custom_op("rmt::depthwise", mutates_args=(), device_types="cpu")
def _depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, plus: Tensor | None, identity: bool) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype)
    x = _with_flat_tokens(x)
    _call("depthwise_forward", x, x if identity else plus, _taps(weight), bias, out, weight.shape[-1])
    return out


@_depthwise.register_fake
def _(x, weight, bias, plus, identity):
    return x.new_empty(x.shape)


@torch.library.custom_op("rmt::gelu_depthwise", mutates_args=(), device_types="cpu")
def _gelu_depthwise(x: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor | None) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype)
    size, start = weight.shape[-1], None if shift is None else shift.data_ptr()
    _call("depthwise_forward", _with_flat_tokens(x), None, _taps(weight), bias, out, size, shift=start, gelu=True)
    return out


@_gelu_depthwise.register_fake
def _(x, shift, weight, bias):
    return x.new_empty(x.shape)


@torch.library.custom_op("rmt::depthwise_backward", mutates_args=(), device_types="cpu")
def _depthwise_backward(grad: Tensor, x: Tensor, weight: Tensor, identity: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, of the weight and of the bias."""
    size, channels = weight.shape[-1], x.shape[3]
    grad, x = _with_flat_tokens(grad), _with_flat_tokens(x)
    dx, taps = torch.empty(x.shape, dtype=x.dtype), torch.empty(size * size + 1, channels)
    _call("depthwise_forward", grad, grad if identity else None, _taps(weight.flip(2, 3)), None, dx, size)
    _call("depthwise_weight_gradient", x, grad, None, None, taps, size)
    return dx, taps[:-1].t().reshape(weight.shape).contiguous(), taps[-1].clone()


@_depthwise_backward.register_fake
def _(grad, x, weight, identity):
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape[0])


def _keep(ctx, inputs, output) -> None:
    x, weight, bias, plus, ctx.identity = inputs
    ctx.save_for_backward(x, weight)
    ctx.has_bias, ctx.has_plus = bias is not None, plus is not None


def _gradients(ctx, grad: Tensor):
    dx, dweight, dbias = _depthwise_backward(grad, *ctx.saved_tensors, ctx.identity)
    return dx, dweight, dbias if ctx.has_bias else None, grad if ctx.has_plus else None, None


_depthwise.register_autograd(_gradients, setup_context=_keep)


class _GeluDepthwise(torch.autograd.Function):
    """`gelu_depthwise` that keeps x alone and applies GELU again in the backward pass, for a seventh less memory."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, identity: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.identity, ctx.has_bias = identity, bias is not None
        return _depthwise(F.gelu(x), weight, bias, None, identity)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        dh, dweight, dbias = _depthwise_backward(grad, F.gelu(x), weight, ctx.identity)
        return torch.ops.aten.gelu_backward(dh, x), dweight, dbias if ctx.has_bias else None, None


def _taps(weight: Tensor) -> Tensor:
    """(C, 1, K, K) to (K·K, C)."""
    return weight.detach().flatten(1).t().contiguous()


def _with_flat_tokens(x: Tensor) -> Tensor:
    """x (B, h, w, C) itself where its rows follow each other and channels are adjacent; otherwise a copy."""
    rows_follow = x.shape[1] == 1 or x.stride(1) == x.shape[2] * x.stride(2)
    return x if x.stride(3) == 1 and rows_follow else x.contiguous()


def _call(
    kernel: str,
    x: Tensor,
    plus: Tensor | None,
    taps: Tensor | None,
    bias: Tensor | None,
    out: Tensor,
    size: int,
    **before: int | None,
) -> None:
    images, height, width, channels = x.shape
    if not x.numel():
        out.zero_()
        return
    plus = None if plus is None else _with_flat_tokens(plus)
    problem = _Convolution(
        x=x.data_ptr(),
        plus=None if plus is None else plus.data_ptr(),
        weight=None if taps is None else taps.data_ptr(),
        bias=None if bias is None else bias.data_ptr(),
        out=out.data_ptr(),
        x_image=x.stride(0),
        x_token=x.stride(2),
        plus_image=0 if plus is None else plus.stride(0),
        plus_token=0 if plus is None else plus.stride(2),
        images=images,
        height=height,
        width=width,
        channels=channels,
        threads=torch.get_num_threads(),
        **before,
    )
    getattr(load("depthwise.cpp", f"KERNEL={size}"), kernel)(ctypes.byref(problem))
