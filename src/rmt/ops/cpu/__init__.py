"""MaSA on a CPU by kernels of our own (`planes.cpp`): the scores stay in cache, and backward computes them again.

Equal to `plain` to 1e-5 (relative to the largest value), forward and gradients, in float32. Registered as operators
of PyTorch, so that `torch.compile(fullgraph=True)` passes; exported programs use `plain`, which needs no compiler.
"""

import ctypes
import math
import typing

import torch
from torch import Tensor

from rmt.ops.cpu.build import load, why_not
from rmt.ops.decay import SpatialPrior, decay_rates
from rmt.ops.form import Form, being_exported
from rmt.ops.windows import head_reaches

NO_LIMIT = 2**31


class _Heads(ctypes.Structure):
    """A (B, h, w, n, d) tensor as the kernels see it: tokens in one dimension, the last stride 1."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("image", ctypes.c_int64),
        ("token", ctypes.c_int64),
        ("head", ctypes.c_int64),
    )


class _Problem(ctypes.Structure):
    """`Problem` of planes.cpp, field by field."""

    _fields_ = (
        *((name, _Heads) for name in ("q", "k", "v", "out", "dout", "dq", "dk", "dv")),
        *((name, ctypes.c_int64) for name in ("images", "height", "width", "heads")),
        *((name, ctypes.c_int64) for name in ("decomposed", "half_split", "threads")),
        *((name, ctypes.c_void_p) for name in ("sin", "cos", "log_gamma", "reach")),
        ("scale", ctypes.c_double),
    )


def unusable(q: Tensor, form: Form, needs_grad: bool) -> str | None:
    """Why this backend cannot serve such a call; None if it can."""
    if q.device.type != "cpu":
        return f"it runs on a CPU, not on {q.device.type}"
    if q.dtype != torch.float32:
        return f"it computes in float32, not in {q.dtype}"
    if form.tolerance and needs_grad:
        return "windows are for inference"
    if form.decay == "paper":
        return "it has no decay after the softmax"
    if being_exported():
        return "an exported program would depend on this machine's compiler"
    return _why_not(q.shape[-1])


@torch.compiler.assume_constant_result
def _why_not(head_dim: int) -> str | None:
    return why_not("planes.cpp", f"HEAD_DIM={head_dim}")


def attend(q: Tensor, k: Tensor, v: Tensor, prior: SpatialPrior, form: Form) -> Tensor:
    """As `plain.attend`; with `form.tolerance`, windowed, see `window.py`."""
    decay_range = () if form.decay == "none" else form.decay_range
    spread = -1.0 if form.spread is None else form.spread
    rest = (form.decomposed, form.half_split, decay_range, form.scale, form.tolerance, spread)
    return _attend(q, k, v, prior.sin, prior.cos, *rest)


def _gammas(heads: int, decay_range: typing.Sequence[float]) -> list[float]:
    return decay_rates(heads, (decay_range[0], decay_range[1])) if decay_range else [1.0] * heads


@torch.library.custom_op("rmt::native_attention", mutates_args=(), device_types="cpu")
def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sin: Tensor,
    cos: Tensor,
    decomposed: bool,
    half_split: bool,
    decay_range: typing.Sequence[float],
    scale: float,
    tolerance: float,
    spread: float,
) -> Tensor:
    out = torch.empty(v.shape, dtype=v.dtype)
    tensors = dict(q=_with_flat_tokens(q), k=_with_flat_tokens(k), v=_with_flat_tokens(v), out=out)
    gammas = _gammas(q.shape[3], decay_range)
    reaches = head_reaches(q, k, scale, gammas, tolerance, None if spread < 0 else spread) if tolerance else None
    _call("masa_forward", tensors, sin, cos, decomposed, half_split, gammas, reaches, scale)
    return out


@_attend.register_fake
def _(q, k, v, sin, cos, decomposed, half_split, decay_range, scale, tolerance, spread):
    return v.new_empty(v.shape)


@torch.library.custom_op("rmt::native_attention_backward", mutates_args=(), device_types="cpu")
def _attend_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sin: Tensor,
    cos: Tensor,
    decomposed: bool,
    half_split: bool,
    decay_range: typing.Sequence[float],
    scale: float,
    tolerance: float,
    spread: float,
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (torch.empty(v.shape, dtype=v.dtype) for _ in range(3))
    inputs = {name: _with_flat_tokens(t) for name, t in dict(q=q, k=k, v=v, dout=dout).items()}
    gammas = _gammas(q.shape[3], decay_range)
    tensors = inputs | dict(dq=dq, dk=dk, dv=dv)
    _call("masa_backward", tensors, sin, cos, decomposed, half_split, gammas, None, scale)
    return dq, dk, dv


@_attend_backward.register_fake
def _(dout, q, k, v, sin, cos, decomposed, half_split, decay_range, scale, tolerance, spread):
    return v.new_empty(v.shape), v.new_empty(v.shape), v.new_empty(v.shape)


def _keep(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.rest = inputs[5:]


def _gradients(ctx, dout: Tensor):
    return *_attend_backward(dout, *ctx.saved_tensors, *ctx.rest), *[None] * 8


_attend.register_autograd(_gradients, setup_context=_keep)


def _with_flat_tokens(x: Tensor) -> Tensor:
    """x (B, h, w, n, d) itself where its rows follow each other and channels are adjacent; otherwise a copy."""
    rows_follow = x.shape[1] == 1 or x.stride(1) == x.shape[2] * x.stride(2)
    return x if x.stride(4) == 1 and rows_follow else x.contiguous()


def _call(kernel, tensors, sin, cos, decomposed, half_split, gammas, reaches, scale) -> None:
    v = tensors["v"]
    images, height, width, heads, head_dim = v.shape
    if not v.numel():
        return
    problem = _Problem(
        images=images,
        height=height,
        width=width,
        heads=heads,
        decomposed=decomposed,
        half_split=half_split,
        threads=torch.get_num_threads(),
        scale=scale,
    )
    for name, t in tensors.items():
        setattr(problem, name, _Heads(t.data_ptr(), t.stride(0), t.stride(2), t.stride(3)))
    sin, cos = sin.contiguous(), cos.contiguous()
    log_gamma = (ctypes.c_float * heads)(*(math.log2(gamma) for gamma in gammas))
    reach = (ctypes.c_int64 * heads)(*(reaches or [NO_LIMIT] * heads))
    problem.sin, problem.cos = sin.data_ptr(), cos.data_ptr()
    problem.log_gamma, problem.reach = ctypes.addressof(log_gamma), ctypes.addressof(reach)
    getattr(load("planes.cpp", f"HEAD_DIM={head_dim}"), kernel)(ctypes.byref(problem))
