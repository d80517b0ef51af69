"""Depthwise convolution of tokens (B, h, w, C) on NVIDIA GPUs, with what is added to it; its gradients, and a GELU's.

A program keeps the kernel of its channels in registers and moves down a strip of a few columns: each token is loaded
once for every column of the kernel, and used for all its rows. The gradient of the image is a convolution with the
kernel rotated by 180°. That of the weight is summed by each program over strips of its own, and then over programs: it
is deterministic.
"""

import math

import triton
import triton.language as tl

SQRT_HALF = tl.constexpr(math.sqrt(0.5))
DENSITY = tl.constexpr(1 / math.sqrt(2 * math.pi))


@triton.jit
def gelu(x):
    """x·Φ(x), Φ being the normal distribution."""
    return 0.5 * x * (1.0 + tl.erf(x * SQRT_HALF))


@triton.jit
def gelu_slope(x):
    """Φ(x) + x·φ(x)."""
    return 0.5 * (1.0 + tl.erf(x * SQRT_HALF)) + x * DENSITY * tl.exp(-0.5 * x * x)


@triton.jit
def load_shifted(pointer, row, rows, column, columns, token_stride, channel, channels, K: tl.constexpr):
    """K tiles (COLUMNS, CHANNELS) of a row in float32: the tokens K//2 to the left … K//2 to the right; 0 outside."""
    tiles = ()
    there = (row >= 0) & (row < rows) & (channel < channels)[None, :]
    for shift in tl.static_range(K):
        x = column + (shift - K // 2)
        address = pointer + (row * columns + x)[:, None] * token_stride + channel[None, :]
        inside = ((x >= 0) & (x < columns))[:, None] & there
        tiles = tiles + (tl.load(address, mask=inside, other=0.0).to(tl.float32),)
    return tiles


@triton.jit
def load_row(pointer, row, rows, column, columns, token_stride, channel, channels, GELU: tl.constexpr):
    """The tile (COLUMNS, CHANNELS) of a row in float32, 0 outside."""
    there = (row >= 0) & (row < rows) & (channel < channels)[None, :] & (column < columns)[:, None]
    address = pointer + (row * columns + column)[:, None] * token_stride + channel[None, :]
    tile = tl.load(address, mask=there, other=0.0).to(tl.float32)
    return gelu(tile) if GELU else tile


@triton.jit
def depthwise(
    x, other, taps, bias, out,
    x_image, x_token, other_image, other_token, out_image, out_token,
    height, width, channels, strips, rows_each,
    K: tl.constexpr, FLIP: tl.constexpr, IDENTITY: tl.constexpr, OTHER: tl.constexpr, BIAS: tl.constexpr,
    COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """out = [bias] + Σ taps·(x shifted), taps (K·K, C); with OTHER "plus", other + that; "slope", GELU′(other)·that.

    FLIP rotates the kernel by 180°, IDENTITY adds 1 to its centre.
    Grid: (⌈C/CHANNELS⌉, ⌈w/COLUMNS⌉, images·strips).
    """
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    image = (tl.program_id(2) // strips).to(tl.int64)
    first = tl.program_id(2) % strips * rows_each
    last = min(first + rows_each, height)
    real = channel < channels
    x += image * x_image
    out += image * out_image
    other += image * other_image

    weights = ()
    for tap in tl.static_range(K * K):
        which = K * K - 1 - tap if FLIP else tap
        weight = tl.load(taps + which * channels + channel, mask=real, other=0.0).to(tl.float32)[None, :]
        weights = weights + (weight + 1.0 if IDENTITY and tap == K * K // 2 else weight,)
    start = tl.zeros([COLUMNS, CHANNELS], tl.float32)
    if BIAS:
        start += tl.load(bias + channel, mask=real, other=0.0).to(tl.float32)[None, :]
    totals = ()  # of the rows from K//2 above the one that is read to K//2 below it
    for _ in tl.static_range(K):
        totals = totals + (start,)
    ahead = load_shifted(x, first - K // 2, height, column, width, x_token, channel, channels, K)
    for row in range(first - K // 2, last + K // 2):
        tiles = ahead
        ahead = load_shifted(x, row + 1, height, column, width, x_token, channel, channels, K)
        added = ()
        for i in tl.static_range(K):
            total = totals[i]
            for shift in tl.static_range(K):
                total += tiles[shift] * weights[(K - 1 - i) * K + shift]
            added = added + (total,)
        done, result = row - K // 2, added[0]
        if done >= first:
            if OTHER != "":
                here = load_row(other, done, height, column, width, other_token, channel, channels, False)
                result = result + here if OTHER == "plus" else result * gelu_slope(here)
            address = out + (done * width + column)[:, None] * out_token + channel[None, :]
            tl.store(address, result.to(out.dtype.element_ty), mask=(column < width)[:, None] & real[None, :])
        totals = ()
        for i in tl.static_range(K - 1):
            totals = totals + (added[i + 1],)
        totals = totals + (start,)


@triton.jit
def depthwise_weight_gradient(
    x, dout, parts,
    x_image, x_token, dout_image, dout_token,
    images, height, width, channels, programs,
    K: tl.constexpr, GELU: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Each program's part of the gradients of the taps and, last, of the bias: (programs, K·K + 1, C).

    A program takes every `programs`-th strip of COLUMNS columns; a row of the gradient, K times shifted, meets K rows
    of x, each of which GELU goes through once. Grid: (⌈C/CHANNELS⌉, programs).
    """
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    real = channel < channels
    sums = ()
    for _ in tl.static_range(K * K + 1):
        sums = sums + (tl.zeros([COLUMNS, CHANNELS], tl.float32),)
    strips = tl.cdiv(width, COLUMNS)
    for strip in range(tl.program_id(1), images * strips, programs):
        image = (strip // strips).to(tl.int64)
        column = strip % strips * COLUMNS + tl.arange(0, COLUMNS)
        x_here, dout_here = x + image * x_image, dout + image * dout_image
        tokens = ()  # of the rows from K//2 above the gradient's to K//2 below it
        for i in tl.static_range(K):
            tokens = tokens + (load_row(x_here, i - K // 2, height, column, width, x_token, channel, channels, GELU),)
        ahead = load_shifted(dout_here, 0, height, column, width, dout_token, channel, channels, K)
        for row in range(0, height):
            shifted = ahead  # the last of them is K//2 to the right: x is K//2 to its left, at the first tap
            ahead = load_shifted(dout_here, row + 1, height, column, width, dout_token, channel, channels, K)
            below = load_row(x_here, row + K // 2 + 1, height, column, width, x_token, channel, channels, GELU)
            added = ()
            for tap in tl.static_range(K * K):
                added = added + (sums[tap] + tokens[tap // K] * shifted[K - 1 - tap % K],)
            sums = added + (sums[K * K] + shifted[K // 2],)
            kept = ()
            for i in tl.static_range(K - 1):
                kept = kept + (tokens[i + 1],)
            tokens = kept + (below,)
    part = parts + tl.program_id(1) * (K * K + 1) * channels + channel
    for tap in tl.static_range(K * K + 1):
        tl.store(part + tap * channels, tl.sum(sums[tap], 0), mask=real)
