"""The backend `triton`: operations on NVIDIA GPUs by Triton kernels, and which calls they serve.

An axis pass of attention reads (B, h, w, n, d) through its strides, rotates queries and keys in registers, computes
the decay from indices and takes the softmax in float32; scores are never written to memory, and the backward pass
recomputes them. bfloat16, float16 and float32, forward and gradients; see `tiles.py` for the arithmetic and
`attention_ops.py` for the kernel that each call takes.
"""

import functools

import torch
from torch import Tensor, nn

from rmt.ops.call import Call, result_dtype, tracing
from rmt.ops.masa import MaSAConfig, SpatialPrior
from rmt.ops.triton.environment import installed, interpreted, version

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
MAX_CHANNELS = 128
MAX_OFFSET = 2**31 - 1  # offsets within an image are 32-bit


def unusable(call: Call) -> str | None:
    """Return why this backend cannot serve a call, or None."""
    if call.device != "cuda" and not interpreted():
        return f"it runs on NVIDIA GPUs, not on {call.device}"
    if torch.version.hip and not interpreted():
        return "it runs on NVIDIA GPUs, not on AMD's"
    for dtype in call.dtypes:
        if dtype not in DTYPES:
            return f"it computes in bfloat16, float16 or float32, not in {dtype}"
    if call.op in ("layer_norm", "linear") and call.tracing != "eager":
        return "PyTorch's compiler generates that kernel itself, and fuses it with its neighbours"
    if call.op == "layer_norm" and call.needs_grad and not call.affine:
        return "a LayerNorm without scale and shift has no gradient"
    if call.op == "linear" and not call.needs_grad:
        return "it only has a faster gradient of the bias"
    if call.op == "depthwise" and not supports_depthwise():
        return "depthwise convolutions need Triton 3.3 (PyTorch 2.7) or newer"
    if call.image_stride > MAX_OFFSET:
        return "an image has 2³¹ elements or more, and offsets are 32-bit"
    if call.config is not None:
        if call.config.tolerance and call.needs_grad:
            return "windows are for inference"
        if call.shape[-1] > MAX_CHANNELS:
            return f"its heads have at most {MAX_CHANNELS} channels"
    return unavailable_reason()


@torch.compiler.assume_constant_result
def unavailable_reason() -> str | None:
    """Return why Triton cannot be used, or None. Registers the operators, before torch.compile looks them up."""
    return _register_operators()


@functools.cache
def _register_operators() -> str | None:
    if not installed():
        return "Triton is not installed; on Linux it comes with PyTorch's CUDA build"
    from rmt.ops.triton import attention_ops, depthwise_ops

    assert attention_ops and depthwise_ops  # importing them registers the operators
    return None


@torch.compiler.assume_constant_result
def supports_depthwise() -> bool:
    """Whether the depthwise kernels can be used: they need tuples, which Triton supports from 3.3 (PyTorch 2.7) on."""
    return installed() and version() >= (3, 3)


def manhattan_attention(q: Tensor, k: Tensor, v: Tensor, prior: SpatialPrior, config: MaSAConfig) -> Tensor:
    """As `masa.manhattan_attention`; windowed along lines of more than 64 tokens where `config.tolerance` allows it."""
    unavailable_reason()  # registers the operators
    ops, radii = torch.ops.rmt, None
    if config.tolerance and config.decay != "none":
        radii = ops.triton_window_radii(q, k, prior.log_gamma, config.scale, config.tolerance)
    options = (config.decomposed, config.half_split, config.decay != "none", config.scale)
    inputs = (q, k, v, prior.cos, prior.sin, prior.log_gamma, radii, *options)
    if tracing(q) != "eager":
        return ops.triton_attention(*inputs)
    from rmt.ops.triton.attention_ops import eager_attention

    return eager_attention(*inputs)


def depthwise_conv(
    x: Tensor, conv: nn.Conv2d, *, residual: bool, plus: Tensor | None, gelu: bool, shift: Tensor | None
) -> Tensor:
    """As `masa.depthwise_conv`; in autocast's dtype, or in that of a summand of higher precision."""
    unavailable_reason()  # registers the operators
    dtype = result_dtype(x)
    for summand in (x if residual else None, plus):
        dtype = dtype if summand is None else torch.promote_types(dtype, summand.dtype)
    x = x if shift is None else x + shift
    inputs = (x, conv.weight, conv.bias, plus, dtype, residual, gelu)
    if tracing(x) != "eager":
        return torch.ops.rmt.triton_depthwise(*inputs)
    from rmt.ops.triton.depthwise_ops import eager_convolution

    return eager_convolution(*inputs)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, dtype: torch.dtype) -> Tensor:
    """LayerNorm over the last dimension, in `dtype`; with gradients if it has a weight. For eager calls only."""
    from rmt.ops.triton import norm_ops

    recorded = weight is not None and torch.is_grad_enabled()
    function = norm_ops.layer_norm_with_gradients if recorded else norm_ops.layer_norm
    return function(x, weight, bias, eps, dtype)


def add_layer_norm(x: Tensor, y: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x + y and its LayerNorm in `dtype`, without scale and shift, for x and y of one dtype. For eager calls only."""
    from rmt.ops.triton import norm_ops

    return norm_ops.add_layer_norm(x, y, eps, dtype)
