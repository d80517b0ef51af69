"""MaSA on a CPU by the kernels of `planes.cpp`: the scores stay in cache and are recomputed in the backward pass."""

import ctypes
import math
from functools import partial

import torch
from torch import Tensor

from rmt.ops.autograd import direct
from rmt.ops.call import flat_tokens, tracing
from rmt.ops.cpu.build import load
from rmt.ops.flops import attention, count_flops
from rmt.ops.masa import MaSAConfig, SpatialPrior, decay_rates
from rmt.ops.second_order import attention_gradients, needs_formula
from rmt.ops.windows import window_radii

NO_LIMIT = 2**31


class _Heads(ctypes.Structure):
    """A (B, h, w, n, d) tensor as the kernels see it: the tokens as one dimension, the last stride 1."""

    _fields_ = (("data", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("image", "token", "head")))


class _Problem(ctypes.Structure):
    """`Problem` of planes.cpp, field by field."""

    _fields_ = (
        *((name, _Heads) for name in ("q", "k", "v", "out", "dout", "dq", "dk", "dv")),
        *((name, ctypes.c_int64) for name in ("images", "height", "width", "heads")),
        *((name, ctypes.c_int64) for name in ("decomposed", "half_split", "threads")),
        *((name, ctypes.c_void_p) for name in ("sin", "cos", "log_gamma", "radius")),
        ("scale", ctypes.c_double),
    )


def manhattan_attention(q: Tensor, k: Tensor, v: Tensor, prior: SpatialPrior, config: MaSAConfig) -> Tensor:
    """As `masa.manhattan_attention`; windowed where `config.tolerance` allows it, see `windows.py`."""
    decay_range = () if config.decay == "none" else config.decay_range
    rest = (config.decomposed, config.half_split, decay_range, config.scale, config.tolerance)
    function = _eager_attention if tracing(q) == "eager" else _attention
    return function(q, k, v, prior.sin, prior.cos, *rest)


def _forward(q, k, v, sin, cos, decomposed, half_split, decay_range, scale, tolerance) -> Tensor:
    out = torch.empty(v.shape, dtype=v.dtype)
    gammas = _gammas(q.shape[3], decay_range)
    radii = window_radii(q, k, scale, gammas, tolerance) if tolerance else None
    tensors = dict(q=flat_tokens(q), k=flat_tokens(k), v=flat_tokens(v), out=out)
    _call("masa_forward", tensors, sin, cos, decomposed, half_split, gammas, scale, radii)
    return out


def _gradients(dout, q, k, v, sin, cos, decomposed, half_split, decay_range, scale, tolerance):
    dq, dk, dv = (torch.empty(v.shape, dtype=v.dtype) for _ in range(3))
    tensors = dict(q=flat_tokens(q), k=flat_tokens(k), v=flat_tokens(v), dout=flat_tokens(dout), dq=dq, dk=dk, dv=dv)
    _call("masa_backward", tensors, sin, cos, decomposed, half_split, _gammas(q.shape[3], decay_range), scale)
    return dq, dk, dv


# An empty decay_range means no decay.
_INPUTS = (
    "Tensor q, Tensor k, Tensor v, Tensor sin, Tensor cos, "
    "bool decomposed, bool half_split, float[] decay_range, float scale, float tolerance"
)


def _operator(name: str, function, schema: str):
    """For torch.compile; eager calls take `_eager_attention`."""
    return torch.library.custom_op(f"rmt::{name}", function, mutates_args=(), device_types="cpu", schema=schema)


_attention = _operator("native_attention", _forward, f"({_INPUTS}) -> Tensor")
_attention_backward = _operator(
    "native_attention_backward", _gradients, f"(Tensor dout, {_INPUTS}) -> (Tensor, Tensor, Tensor)"
)


@_attention.register_fake
def _(q, k, v, *rest):
    return v.new_empty(v.shape)


@_attention_backward.register_fake
def _(dout, q, k, v, *rest):
    return v.new_empty(v.shape), v.new_empty(v.shape), v.new_empty(v.shape)


def _setup_context(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.rest = inputs[5:]


def _backward(ctx, dout: Tensor, gradients=_attention_backward):
    if needs_formula(dout):
        decomposed, half_split, decay_range, scale, *_ = ctx.rest
        q, *_, sin, _ = tensors = ctx.saved_tensors
        log_gamma = torch.tensor(_gammas(q.shape[3], decay_range), dtype=sin.dtype).log()
        options = dict(decomposed=decomposed, half_split=half_split, decay=bool(decay_range), scale=scale)
        return *attention_gradients(dout, (*tensors, log_gamma), **options), *[None] * 7
    return *gradients(dout, *ctx.saved_tensors, *ctx.rest), *[None] * 7


count_flops(torch.ops.rmt.native_attention, lambda q, k, v, sin, cos, decomposed, *rest: attention(q, decomposed))
count_flops(
    torch.ops.rmt.native_attention_backward,
    lambda dout, q, k, v, sin, cos, decomposed, *rest: 2 * attention(q, decomposed),
)
_attention.register_autograd(_backward, setup_context=_setup_context)
_eager_attention = direct(_forward, _setup_context, partial(_backward, gradients=_gradients))


def _gammas(heads: int, decay_range) -> list[float]:
    return decay_rates(heads, (decay_range[0], decay_range[1])) if decay_range else [1.0] * heads


def _call(kernel, tensors, sin, cos, decomposed, half_split, gammas, scale, radii=None) -> None:
    v = tensors["v"]
    images, height, width, heads, head_dim = v.shape
    if not v.numel():
        return
    sin, cos = sin.contiguous(), cos.contiguous()
    log2_gamma = (ctypes.c_float * heads)(*(math.log2(gamma) for gamma in gammas))
    radius = (ctypes.c_int64 * heads)(*(radii or [NO_LIMIT] * heads))
    problem = _Problem(
        **{name: _Heads(t.data_ptr(), t.stride(0), t.stride(2), t.stride(3)) for name, t in tensors.items()},
        **dict(images=images, height=height, width=width, heads=heads, threads=torch.get_num_threads()),
        **dict(decomposed=decomposed, half_split=half_split, scale=scale, sin=sin.data_ptr(), cos=cos.data_ptr()),
        **dict(log_gamma=ctypes.addressof(log2_gamma), radius=ctypes.addressof(radius)),
    )
    getattr(load("planes.cpp", v.dtype, f"HEAD_DIM={head_dim}"), kernel)(ctypes.byref(problem))
