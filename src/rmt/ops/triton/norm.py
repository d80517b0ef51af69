"""LayerNorm over the channels of (tokens, C) on NVIDIA GPUs, and its gradients.

A program loads whole tokens, so that mean and variance are computed from registers. The gradients of scale and shift
are summed by each program over tiles of its own, and then over programs: they are deterministic.
"""

import triton
import triton.language as tl


@triton.jit
def load(pointer, token, tokens, channel, channels):
    """The tile (TOKENS, CHANNELS) in float32, 0 outside."""
    inside = (token < tokens)[:, None] & (channel < channels)[None, :]
    offset = token.to(tl.int64)[:, None] * channels + channel[None, :]
    return tl.load(pointer + offset, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def store(pointer, token, tokens, channel, channels, tile):
    inside = (token < tokens)[:, None] & (channel < channels)[None, :]
    offset = token.to(tl.int64)[:, None] * channels + channel[None, :]
    tl.store(pointer + offset, tile.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def standardise(x, channel, channels, EPS: tl.constexpr):
    """x̂ = (x − mean)/√(variance + ε) of each token, 0 in the padding, and 1/√(variance + ε), (TOKENS, 1)."""
    mean = tl.sum(x, 1) / channels
    centred = tl.where((channel < channels)[None, :], x - mean[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 1) / channels + EPS)[:, None]
    return centred * scale, scale


@triton.jit
def layer_norm(
    x,
    weight,
    bias,
    out,
    tokens,
    channels,
    EPS: tl.constexpr,
    AFFINE: tl.constexpr,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """out = x̂·weight + bias, or x̂. Grid: (⌈tokens/TOKENS⌉,)."""
    token, channel = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS), tl.arange(0, CHANNELS)
    y, _ = standardise(load(x, token, tokens, channel, channels), channel, channels, EPS)
    if AFFINE:
        real = channel < channels
        scale = tl.load(weight + channel, mask=real, other=0.0).to(tl.float32)
        shift = tl.load(bias + channel, mask=real, other=0.0).to(tl.float32)
        y = y * scale[None, :] + shift[None, :]
    store(out, token, tokens, channel, channels, y)


@triton.jit
def add_layer_norm(x, y, total, out, tokens, channels, EPS: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr):
    """total = x + y, and out = x̂ of the rounded total. Grid: (⌈tokens/TOKENS⌉,)."""
    token, channel = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS), tl.arange(0, CHANNELS)
    added = load(x, token, tokens, channel, channels) + load(y, token, tokens, channel, channels)
    added = added.to(total.dtype.element_ty).to(tl.float32)
    store(total, token, tokens, channel, channels, added)
    z, _ = standardise(added, channel, channels, EPS)
    store(out, token, tokens, channel, channels, z)


@triton.jit
def layer_norm_backward(
    x, weight, dout, dx, parts, tokens, channels, EPS: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr
):
    """dx, and each program's part of the gradients of weight and bias, (2, programs, C). Grid: (programs,).

    With g = dout·weight: dx = (g − mean(g) − x̂·mean(g·x̂))/√(variance + ε).
    """
    channel = tl.arange(0, CHANNELS)
    real = channel < channels
    scale = tl.load(weight + channel, mask=real, other=0.0).to(tl.float32)[None, :]
    dweight = tl.zeros([TOKENS, CHANNELS], tl.float32)
    dbias = tl.zeros([TOKENS, CHANNELS], tl.float32)
    for first in range(tl.program_id(0) * TOKENS, tokens, tl.num_programs(0) * TOKENS):
        token = first + tl.arange(0, TOKENS)
        gradient = load(dout, token, tokens, channel, channels)
        y, rate = standardise(load(x, token, tokens, channel, channels), channel, channels, EPS)
        dweight += gradient * y
        dbias += gradient
        gradient *= scale
        along = tl.sum(gradient * y, 1)[:, None] / channels
        result = (gradient - tl.sum(gradient, 1)[:, None] / channels - y * along) * rate
        store(dx, token, tokens, channel, channels, result)
    part = parts + tl.program_id(0) * channels + channel
    tl.store(part, tl.sum(dweight, 0), mask=real)
    tl.store(part + tl.num_programs(0) * channels, tl.sum(dbias, 0), mask=real)
