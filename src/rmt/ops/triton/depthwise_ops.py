"""Depthwise convolutions: how the kernels are launched, and the operators that PyTorch's compilers see."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rmt.ops.autograd import direct
from rmt.ops.call import flat_tokens
from rmt.ops.flops import convolution, count_flops
from rmt.ops.second_order import depthwise_gradients, needs_formula
from rmt.ops.triton.depthwise import depthwise, depthwise_weight_gradient
from rmt.ops.triton.launch import Launch, launch_eager, launch_traced, operator

# Measured on an H100. A program is one warp and walks down one column, 2 or 4 channels to a thread.
PROGRAMS = 8192  # of a forward pass: rows are divided for as many
PARTS = {3: 4096, 5: 2048}  # by kernel size, programs among which the weight's gradient is divided


def convolve(
    launch: Launch, x: Tensor, weight: Tensor, bias: Tensor | None, plus: Tensor | None,
    dtype: torch.dtype, residual: bool, gelu: bool,
) -> Tensor:  # fmt: skip
    """[plus] + [h] + conv(h) in `dtype`, with h = x or, with `gelu`, GELU(x), and [h] with `residual`.

    x and plus (B, h, w, C), weight (C, 1, K, K), bias (C,).
    """
    # GELU inside the kernel, which reads each token K times, takes longer than a pass of its own.
    return _convolve(launch, F.gelu(x) if gelu else x, weight, bias, plus, dtype, residual, flip=False)


def image_gradient(
    launch: Launch, dout: Tensor, weight: Tensor, x: Tensor | None, dtype: torch.dtype, residual: bool
) -> Tensor:
    """The gradient of x, from that of `convolve`'s result; with `gelu` there, x itself is needed here."""
    return _convolve(launch, dout, weight, None, x, dtype, residual, flip=True)


def _convolve(
    launch: Launch, x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor | None,
    dtype: torch.dtype, residual: bool, flip: bool,
) -> Tensor:  # fmt: skip
    images, height, width, channels = x.shape
    size = weight.shape[-1]
    x = flat_tokens(x)
    out = x.new_empty(x.shape, dtype=dtype)
    if not x.numel():
        return out
    block = 128 if channels >= 128 else 64
    blocks = -(-channels // block)
    rows = -(-height // max(1, min(height // size, PROGRAMS // (images * blocks * width))))
    taps = weight.flatten(1).t().contiguous()
    # What is absent is not read. A compiled program would copy x if it were given twice.
    second, shift = (taps if other is None else flat_tokens(other)), (taps if bias is None else bias)
    other_strides = (0, 0) if other is None else (second.stride(0), second.stride(2))
    launch(
        depthwise,
        (blocks, width, images * -(-height // rows)),
        *(x, second, taps, shift, out),
        *(x.stride(0), x.stride(2), *other_strides, out.stride(0), out.stride(2)),
        *(height, width, channels, -(-height // rows), rows),
        **dict(K=size, FLIP=flip, IDENTITY=residual, OTHER="" if other is None else "slope" if flip else "plus"),
        **dict(BIAS=bias is not None, COLUMNS=1, CHANNELS=block, num_warps=1),
    )
    return out


def weight_gradients(launch: Launch, x: Tensor, dout: Tensor, size: int, gelu: bool) -> tuple[Tensor, Tensor]:
    """The gradients of the weight, (C, 1, K, K), and of the bias, (C,), both float32."""
    images, height, width, channels = x.shape
    x, dout = flat_tokens(x), flat_tokens(dout)
    blocks = -(-channels // 64)
    programs = max(1, min(images * width, PARTS.get(size, 2048) // blocks))
    parts = torch.empty((programs, size * size + 1, channels), dtype=torch.float32, device=x.device)
    launch(
        depthwise_weight_gradient,
        (blocks, programs),
        *(x, dout, parts, x.stride(0), x.stride(2), dout.stride(0), dout.stride(2)),
        *(images, height, width, channels, programs),
        **dict(K=size, GELU=gelu, COLUMNS=1, CHANNELS=64, num_warps=1),
    )
    total = parts.sum(0)
    return total[:-1].t().reshape(channels, 1, size, size), total[-1].clone()


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, weight, bias, plus, _, ctx.residual, ctx.gelu = inputs
    ctx.save_for_backward(x, weight)
    ctx.bias, ctx.plus = (None if t is None else t.dtype for t in (bias, plus))


def _gradients(
    image_gradient: Callable[..., Tensor],
    weight_gradients: Callable[..., tuple[Tensor, Tensor]],
    ctx: Any,
    dout: Tensor,
) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    dx = dweight = dbias = None
    if ctx.needs_input_grad[0]:
        dx = image_gradient(dout, weight, x if ctx.gelu else None, x.dtype, ctx.residual)
    if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
        dweight, dbias = weight_gradients(x, dout, weight.shape[-1], ctx.gelu)
        dweight, dbias = dweight.to(weight.dtype), None if ctx.bias is None else dbias.to(ctx.bias)
    return dx, dweight, dbias, None if ctx.plus is None else dout.to(ctx.plus), None, None, None


def _eager_gradients(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
    if needs_formula(dout):
        x, weight = ctx.saved_tensors
        dx, dweight, dbias = depthwise_gradients(dout, x, weight, residual=ctx.residual, gelu=ctx.gelu)
        dplus = None if ctx.plus is None else dout.to(ctx.plus)
        return dx, dweight, None if ctx.bias is None else dbias.to(ctx.bias), dplus, None, None, None
    return _gradients(partial(image_gradient, launch_eager), partial(weight_gradients, launch_eager), ctx, dout)


eager_convolution = direct(partial(convolve, launch_eager), _setup_context, _eager_gradients)


@operator("triton_depthwise", fake=lambda x, weight, bias, plus, dtype, *rest: x.new_empty(x.shape, dtype=dtype))
def _operator(
    x: Tensor, weight: Tensor, bias: Tensor | None, plus: Tensor | None,
    dtype: torch.dtype, residual: bool, gelu: bool,
) -> Tensor:  # fmt: skip
    return convolve(launch_traced, x, weight, bias, plus, dtype, residual, gelu)


@operator(
    "triton_depthwise_image_gradient",
    fake=lambda dout, weight, x, dtype, residual: dout.new_empty(dout.shape, dtype=dtype),
)
def _image_gradient_operator(
    dout: Tensor, weight: Tensor, x: Tensor | None, dtype: torch.dtype, residual: bool
) -> Tensor:
    return image_gradient(launch_traced, dout, weight, x, dtype, residual)


def _empty_weight_gradients(x: Tensor, dout: Tensor, size: int, gelu: bool) -> tuple[Tensor, Tensor]:
    channels = x.shape[3]
    return x.new_empty((channels, 1, size, size), dtype=torch.float32), x.new_empty(channels, dtype=torch.float32)


@operator("triton_depthwise_weight_gradient", fake=_empty_weight_gradients)
def _weight_gradient_operator(x: Tensor, dout: Tensor, size: int, gelu: bool) -> tuple[Tensor, Tensor]:
    return weight_gradients(launch_traced, x, dout, size, gelu)


_ops = torch.ops.rmt
count_flops(_ops.triton_depthwise, lambda x, weight, *rest: convolution(x, weight[-1]))
count_flops(_ops.triton_depthwise_image_gradient, lambda dout, weight, *rest: convolution(dout, weight[-1]))
count_flops(_ops.triton_depthwise_weight_gradient, lambda x, dout, size, gelu: convolution(x, size))
_operator.register_autograd(
    lambda ctx, dout: _gradients(
        _ops.triton_depthwise_image_gradient, _ops.triton_depthwise_weight_gradient, ctx, dout
    ),
    setup_context=_setup_context,
)
