"""How the depthwise kernels are launched, and the operators that PyTorch's compilers see."""

import torch
import torch.nn.functional as F
from torch import Tensor

from rmt.ops.call import flat_tokens
from rmt.ops.triton.depthwise import depthwise, depthwise_weight_gradient
from rmt.ops.triton.launch import Launch, directly, operator, traceably

# Measured on an H100. A program is one warp and walks down one column, 2 or 4 channels to a thread.
PROGRAMS = 8192  # of a forward pass: rows are divided for as many
PARTS = {3: 4096, 5: 2048}  # by kernel size, programs among which the weight's gradient is divided


def convolve(
    launch: Launch,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    plus: Tensor | None,
    dtype: torch.dtype,
    identity: bool,
    gelu: bool,
) -> Tensor:
    """[plus] + [x] + conv(x) in `dtype`; x with `identity`, and GELU(x) for x with `gelu`.

    x and plus (B, h, w, C), weight (C, 1, K, K), bias (C,).
    """
    # Applied while x is read, K times to every token, GELU takes longer than by itself.
    x = F.gelu(x) if gelu else x
    return _convolve(launch, x, weight, bias, plus, "" if plus is None else "plus", dtype, False, identity)


def image_gradient(
    launch: Launch, dout: Tensor, weight: Tensor, x: Tensor | None, dtype: torch.dtype, identity: bool
) -> Tensor:
    """Of x, from that of `convolve`'s result; x itself is needed where GELU went before."""
    return _convolve(launch, dout, weight, None, x, "" if x is None else "slope", dtype, True, identity)


def _convolve(
    launch: Launch,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    other: Tensor | None,
    use_of_other: str,
    dtype: torch.dtype,
    flip: bool,
    identity: bool,
) -> Tensor:
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
    # What is absent is not read. Of x, given twice, a compiled program would make two.
    second, shift = (taps if other is None else flat_tokens(other)), (taps if bias is None else bias)
    other_strides = (0, 0) if other is None else (second.stride(0), second.stride(2))
    launch(
        depthwise,
        (blocks, width, images * -(-height // rows)),
        *(x, second, taps, shift, out),
        *(x.stride(0), x.stride(2), *other_strides, out.stride(0), out.stride(2)),
        *(height, width, channels, -(-height // rows), rows),
        K=size,
        FLIP=flip,
        IDENTITY=identity,
        OTHER=use_of_other,
        BIAS=bias is not None,
        COLUMNS=1,
        CHANNELS=block,
        num_warps=1,
    )
    return out


def weight_gradients(launch: Launch, x: Tensor, dout: Tensor, size: int, gelu: bool) -> tuple[Tensor, Tensor]:
    """Of the weight, (C, 1, K, K), and of the bias, (C,), both float32."""
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
        K=size,
        GELU=gelu,
        COLUMNS=1,
        CHANNELS=64,
        num_warps=1,
    )
    total = parts.sum(0)
    return total[:-1].t().reshape(channels, 1, size, size), total[-1].clone()


class Direct(torch.autograd.Function):
    """`convolve` and its gradients without PyTorch's dispatcher."""

    @staticmethod
    def forward(ctx, *inputs):
        _keep(ctx, inputs, None)
        return convolve(directly, *inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dout):
        return _gradients(
            ctx,
            dout,
            lambda *inputs: image_gradient(directly, *inputs),
            lambda *inputs: weight_gradients(directly, *inputs),
        )


def _keep(ctx, inputs, output) -> None:
    x, weight, bias, plus, _, ctx.identity, ctx.gelu = inputs
    ctx.save_for_backward(x, weight)
    ctx.bias, ctx.plus = (None if t is None else t.dtype for t in (bias, plus))


def _gradients(ctx, dout: Tensor, image_gradient, weight_gradients):
    x, weight = ctx.saved_tensors
    dx = dweight = dbias = None
    if ctx.needs_input_grad[0]:
        dx = image_gradient(dout, weight, x if ctx.gelu else None, x.dtype, ctx.identity)
    if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
        dweight, dbias = weight_gradients(x, dout, weight.shape[-1], ctx.gelu)
        dweight, dbias = dweight.to(weight.dtype), None if ctx.bias is None else dbias.to(ctx.bias)
    return dx, dweight, dbias, None if ctx.plus is None else dout.to(ctx.plus), None, None, None


@operator("triton_depthwise", fake=lambda x, weight, bias, plus, dtype, *rest: x.new_empty(x.shape, dtype=dtype))
def _operator(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    plus: Tensor | None,
    dtype: torch.dtype,
    identity: bool,
    gelu: bool,
) -> Tensor:
    return convolve(traceably, x, weight, bias, plus, dtype, identity, gelu)


@operator(
    "triton_depthwise_image_gradient",
    fake=lambda dout, weight, x, dtype, identity: dout.new_empty(dout.shape, dtype=dtype),
)
def _image_gradient_operator(
    dout: Tensor, weight: Tensor, x: Tensor | None, dtype: torch.dtype, identity: bool
) -> Tensor:
    return image_gradient(traceably, dout, weight, x, dtype, identity)


def _empty_weight_gradients(x: Tensor, dout: Tensor, size: int, gelu: bool) -> tuple[Tensor, Tensor]:
    channels = x.shape[3]
    return x.new_empty((channels, 1, size, size), dtype=torch.float32), x.new_empty(channels, dtype=torch.float32)


@operator("triton_depthwise_weight_gradient", fake=_empty_weight_gradients)
def _weight_gradient_operator(x: Tensor, dout: Tensor, size: int, gelu: bool) -> tuple[Tensor, Tensor]:
    return weight_gradients(traceably, x, dout, size, gelu)


_operator.register_autograd(
    lambda ctx, dout: _gradients(
        ctx,
        dout,
        torch.ops.rmt.triton_depthwise_image_gradient,
        torch.ops.rmt.triton_depthwise_weight_gradient,
    ),
    setup_context=_keep,
)
