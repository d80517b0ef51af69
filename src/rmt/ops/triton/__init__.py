"""MaSA on NVIDIA GPUs by fused Triton kernels: q, k and v stay where they lie, scores never leave the chip.

An axis pass reads (B, h, w, n, d) through its strides, turns queries and keys in registers, makes the decay from
indices and takes the softmax in float32; backward computes the scores again. Depthwise convolutions (`depthwise.py`)
and LayerNorm (`norm.py`) have kernels beside it. bfloat16, float16 and float32 in and out, forward and gradients; see
`tiles.py` for the arithmetic, `attention_ops.py` for who is called when.
Without a GPU the kernels run in Triton's interpreter (`TRITON_INTERPRET=1`), which is how they are tested.
"""

import functools
import importlib.util
import os

import torch
from torch import Tensor

from rmt.ops.decay import SpatialPrior, being_captured
from rmt.ops.form import Form

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
MAX_CHANNELS = 128
MAX_OFFSET = 2**31 - 1  # offsets within an image are 32-bit


def unusable(q: Tensor, form: Form, needs_grad: bool) -> str | None:
    """Why this backend cannot serve such a call; None if it can."""
    if q.device.type != "cuda" and not interpreted():
        return f"it runs on NVIDIA GPUs, not on {q.device.type}"
    if q.dtype not in DTYPES:
        return f"it computes in bfloat16, float16 or float32, not in {q.dtype}"
    if form.decay == "paper":
        return "it has no decay after the softmax"
    if form.tolerance and needs_grad:
        return "windows are for inference"
    if q.shape[-1] > MAX_CHANNELS:
        return f"its heads have at most {MAX_CHANNELS} channels"
    if q.stride(0) > MAX_OFFSET:
        return "an image has more than 2³¹ numbers"
    return why_not()


@torch.compiler.assume_constant_result
def why_not() -> str | None:
    """Why Triton cannot be used at all; None if it can, with the operators registered before a compiler asks."""
    return _load()


@functools.cache
def _load() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; on Linux it comes with PyTorch's CUDA build"
    from rmt.ops.triton import attention_ops, depthwise_ops

    assert attention_ops and depthwise_ops  # importing them registers the operators
    return None


@torch.compiler.assume_constant_result
def convolves() -> bool:
    """Whether the depthwise kernels can be used too: they keep tuples, which Triton has from 3.3 (PyTorch 2.7) on."""
    return why_not() is None and version() >= (3, 3)


def version() -> tuple[int, ...]:
    """Triton's, major and minor."""
    from triton import __version__

    return tuple(int(part) for part in __version__.split(".")[:2])


@torch.compiler.assume_constant_result
def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, on a CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def attend(q: Tensor, k: Tensor, v: Tensor, prior: SpatialPrior, form: Form) -> Tensor:
    """As `plain.attend`; with `form.tolerance`, windowed along lines of more than 64 tokens, see `window.py`."""
    why_not()  # loads them
    ops, reaches = torch.ops.rmt, None
    if form.tolerance and form.decay != "none":
        spread = -1.0 if form.spread is None else form.spread
        reaches = ops.triton_reaches(q, k, prior.log_gamma, form.scale, form.tolerance, spread)
    rest = (form.decomposed, form.half_split, form.decay != "none", form.scale)
    inputs = (q, k, v, prior.cos, prior.sin, prior.log_gamma, reaches, *rest)
    if being_captured(q):
        return ops.triton_attention(*inputs)
    from rmt.ops.triton.attention_ops import Direct

    return Direct.apply(*inputs)


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, plus: Tensor | None, dtype: torch.dtype, gelu: bool = False
) -> Tensor:
    """[plus] + conv(x) in `dtype`: x and plus (B, h, w, C), weight (C, 1, K, K), bias (C,). With `gelu`, of GELU(x)."""
    identity = plus is x  # and then, with `gelu`, GELU(x) + conv(GELU(x))
    inputs = (x, weight, bias, None if identity else plus, dtype, identity, gelu)
    if being_captured(x):
        return torch.ops.rmt.triton_depthwise(*inputs)
    from rmt.ops.triton.depthwise_ops import Direct

    return Direct.apply(*inputs)


def normalise(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, dtype: torch.dtype) -> Tensor:
    """LayerNorm over the last dimension, in `dtype`, with gradients where it has weights; not for compilers."""
    from rmt.ops.triton import norm_ops

    if weight is None or not torch.is_grad_enabled():
        return norm_ops.normalise(x, weight, bias, eps, dtype)
    return norm_ops.LayerNorm.apply(x, weight, bias, eps, dtype)
