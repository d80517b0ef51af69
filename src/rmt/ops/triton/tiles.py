"""Functions of the attention kernels: tiles of tokens, their rotation, products, softmax weights and gradients.

A tile is (L, D): tokens of one line and their channels, both padded to powers of two and with 0 outside. In a rotated
tile the channels of a pair are adjacent, in whichever order they are in memory: queries and keys are permuted alike, so
the scores do not change.
"""

import math

import triton
import triton.language as tl

LOG2_E = tl.constexpr(math.log2(math.e))


@triton.jit
def phases(cos, sin, position, inside, CHANNELS: tl.constexpr, PAIRS: tl.constexpr):
    """cos and sin, (L, PAIRS), of the phases at the positions (L,), from the prior's tables (h·w, CHANNELS/2).

    They are read, not computed: they stay in the cache, and a sine of a large argument takes some forty instructions.
    """
    pair = tl.arange(0, PAIRS)
    offset = position[:, None] * (CHANNELS // 2) + pair
    where = inside[:, None] & (pair < CHANNELS // 2)
    return tl.load(cos + offset, mask=where, other=0.0), tl.load(sin + offset, mask=where, other=0.0)


@triton.jit
def load(pointer, tokens, inside, CHANNELS: tl.constexpr, PAIRS: tl.constexpr):
    """The tile (L, 2·PAIRS) at the offsets `tokens` (L,), 0 where not `inside`."""
    channel = tl.arange(0, 2 * PAIRS)
    where = inside[:, None] & (channel < CHANNELS)
    return tl.load(pointer + tokens[:, None] + channel, mask=where, other=0.0)


@triton.jit
def store(pointer, tokens, inside, tile, CHANNELS: tl.constexpr, PAIRS: tl.constexpr):
    channel = tl.arange(0, 2 * PAIRS)
    where = inside[:, None] & (channel < CHANNELS)
    tl.store(pointer + tokens[:, None] + channel, tile.to(pointer.dtype.element_ty), mask=where)


@triton.jit
def load_rotated(pointer, tokens, inside, cos, sin, CHANNELS: tl.constexpr, HALF_SPLIT: tl.constexpr):
    """The tile with each pair (a, b) rotated to (a·cos − b·sin, b·cos + a·sin), in the dtype in memory."""
    L: tl.constexpr = cos.shape[0]
    PAIRS: tl.constexpr = cos.shape[1]
    if HALF_SPLIT:
        pair = tl.arange(0, PAIRS)
        where = inside[:, None] & (pair < CHANNELS // 2)
        half = pointer + tokens[:, None] + pair
        a = tl.load(half, mask=where, other=0.0)
        b = tl.load(half + CHANNELS // 2, mask=where, other=0.0)
    else:
        a, b = tl.split(tl.reshape(load(pointer, tokens, inside, CHANNELS, PAIRS), [L, PAIRS, 2]))
    turned = tl.join((a * cos - b * sin).to(a.dtype), (b * cos + a * sin).to(a.dtype))
    return tl.reshape(turned, [L, 2 * PAIRS])


@triton.jit
def store_unrotated(pointer, tokens, inside, gradient, cos, sin, add, CHANNELS: tl.constexpr, HALF_SPLIT: tl.constexpr):
    """Store (or add) the gradient (L, D) of a rotated tile, rotated back, in the layout that the tile was read from."""
    L: tl.constexpr = cos.shape[0]
    PAIRS: tl.constexpr = cos.shape[1]
    turned_a, turned_b = tl.split(tl.reshape(gradient, [L, PAIRS, 2]))
    a, b = turned_a * cos + turned_b * sin, turned_b * cos - turned_a * sin
    if HALF_SPLIT:
        pair = tl.arange(0, PAIRS)
        where = inside[:, None] & (pair < CHANNELS // 2)
        half = pointer + tokens[:, None] + pair
        if add:
            a += tl.load(half, mask=where, other=0.0)
            b += tl.load(half + CHANNELS // 2, mask=where, other=0.0)
        tl.store(half, a.to(pointer.dtype.element_ty), mask=where)
        tl.store(half + CHANNELS // 2, b.to(pointer.dtype.element_ty), mask=where)
    else:
        tile = tl.reshape(tl.join(a, b), [L, 2 * PAIRS])
        if add:
            tile += load(pointer, tokens, inside, CHANNELS, PAIRS)
        store(pointer, tokens, inside, tile, CHANNELS, PAIRS)


@triton.jit
def decay_rate(log_gammas, head, DECAY: tl.constexpr):
    """log₂γ of a head, and 0 without decay."""
    return tl.load(log_gammas + head) * LOG2_E if DECAY else 0.0


@triton.jit
def line_bias(length, log2_gamma, L: tl.constexpr):
    """(L, L): |Δ|·log₂γ between the tokens of a line, −∞ for keys beyond its end."""
    token = tl.arange(0, L)
    distance = tl.abs(token[:, None] - token[None, :]).to(tl.float32)
    return tl.where(token[None, :] < length, distance * log2_gamma, float("-inf"))


@triton.jit
def grid_bias(length, width, log2_gamma, L: tl.constexpr):
    """(L, L): (|Δx| + |Δy|)·log₂γ between the tokens of a grid, −∞ for keys beyond its end."""
    token = tl.arange(0, L)
    y, x = token // width, token % width
    distance = (tl.abs(x[:, None] - x[None, :]) + tl.abs(y[:, None] - y[None, :])).to(tl.float32)
    return tl.where(token[None, :] < length, distance * log2_gamma, float("-inf"))


@triton.jit
def scores(q, k, bias, SCALE: tl.constexpr, PRECISION: tl.constexpr):
    """exp₂(logits − their maximum), (M, N), and the sums over keys, (M, 1)."""
    logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * (SCALE * LOG2_E) + bias
    powers = tl.exp2(logits - tl.max(logits, 1)[:, None])
    return powers, tl.sum(powers, 1)[:, None]


@triton.jit
def attend(q, k, v, bias, SCALE: tl.constexpr, PRECISION: tl.constexpr):
    """softmax(q·k + bias)·v, (M, D) in float32."""
    powers, total = scores(q, k, bias, SCALE, PRECISION)
    return tl.dot(powers.to(v.dtype), v, input_precision=PRECISION) / total


@triton.jit
def gradients(q, k, v, dout, bias, SCALE: tl.constexpr, PRECISION: tl.constexpr):
    """Of `attend`, for rotated q and k: dq, dk, dv in float32. With P the weights, dS = P∘(dP − Σ P∘dP)."""
    powers, total = scores(q, k, bias, SCALE, PRECISION)
    weights = powers * (1.0 / total)
    dweights = tl.dot(dout, tl.trans(v), input_precision=PRECISION)
    dscores = weights * (dweights - tl.sum(weights * dweights, 1)[:, None])
    dscores = (dscores * SCALE).to(q.dtype)
    dv = tl.dot(tl.trans(weights.to(dout.dtype)), dout, input_precision=PRECISION)
    return tl.dot(dscores, k, input_precision=PRECISION), tl.dot(tl.trans(dscores), q, input_precision=PRECISION), dv
