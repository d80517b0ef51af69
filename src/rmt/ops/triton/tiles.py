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
def load_pairs(pointer, tokens, inside, CHANNELS: tl.constexpr, PAIRS: tl.constexpr, HALF_SPLIT: tl.constexpr):
    """The channel pairs (a, b) that are rotated, (L, PAIRS) each."""
    if HALF_SPLIT:
        pair = tl.arange(0, PAIRS)
        where = inside[:, None] & (pair < CHANNELS // 2)
        half = pointer + tokens[:, None] + pair
        return tl.load(half, mask=where, other=0.0), tl.load(half + CHANNELS // 2, mask=where, other=0.0)
    else:
        tile = load(pointer, tokens, inside, CHANNELS, PAIRS)
        return tl.split(tl.reshape(tile, [tile.shape[0], PAIRS, 2]))


@triton.jit
def rotated(a, b, cos, sin):
    """The tile (L, 2·PAIRS) of the pairs (a·cos − b·sin, b·cos + a·sin), in their dtype."""
    turned = tl.join((a * cos - b * sin).to(a.dtype), (b * cos + a * sin).to(a.dtype))
    return tl.reshape(turned, [a.shape[0], 2 * a.shape[1]])


@triton.jit
def load_rotated(pointer, tokens, inside, cos, sin, CHANNELS: tl.constexpr, HALF_SPLIT: tl.constexpr):
    """The tile (L, 2·PAIRS) with its pairs rotated, in the dtype in memory."""
    a, b = load_pairs(pointer, tokens, inside, CHANNELS, cos.shape[1], HALF_SPLIT)
    return rotated(a, b, cos, sin)


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
def decay_rate(log_gammas, head, DECAY: tl.constexpr, SCALE: tl.constexpr):
    """−ln γ/SCALE of a head, which is the decay between neighbours in units of q·k; 0 without decay."""
    return tl.load(log_gammas + head) * (-1 / SCALE) if DECAY else 0.0


@triton.jit
def decays(token, inside, width, rate, GRID: tl.constexpr):
    """`rate` times the positions of tokens (L,): along a line, and 0; or along x and y of a grid. 1e30 if not `inside`.

    |a − b| is then the decay between two tokens, which takes two additions for each pair, and 1e30 for keys beyond the
    end, whose weight is 0.
    """
    if GRID:
        x, y = (token % width).to(tl.float32) * rate, (token // width).to(tl.float32) * rate
    else:
        x, y = token.to(tl.float32) * rate, 0.0
    return tl.where(inside, x, 1e30), y


@triton.jit
def decayed_products(q, k, query_x, query_y, key_x, key_y, GRID: tl.constexpr, PRECISION: tl.constexpr):
    """q·k minus the decay between queries and keys, see `decays`: (M, N). The logits are SCALE times these."""
    products = tl.dot(q, tl.trans(k), input_precision=PRECISION) - tl.abs(query_x[:, None] - key_x[None, :])
    return products - tl.abs(query_y[:, None] - key_y[None, :]) if GRID else products


@triton.jit
def powers_and_sums(products, SCALE: tl.constexpr):
    """exp(logits − their maximum), (M, N), and the sums over keys, (M,)."""
    factor: tl.constexpr = SCALE * LOG2_E
    powers = tl.exp2(products * factor - (tl.max(products, 1) * factor)[:, None])
    return powers, tl.sum(powers, 1)


@triton.jit
def attend(q, k, v, x, y, GRID: tl.constexpr, SCALE: tl.constexpr, PRECISION: tl.constexpr):
    """softmax(logits)·v within the tokens of a tile, whose decays are x and y: (L, D) in float32."""
    powers, total = powers_and_sums(decayed_products(q, k, x, y, x, y, GRID, PRECISION), SCALE)
    return tl.dot(powers.to(v.dtype), v, input_precision=PRECISION) * (1.0 / total)[:, None]


@triton.jit
def gradients(q, k, v, dout, x, y, GRID: tl.constexpr, SCALE: tl.constexpr, PRECISION: tl.constexpr):
    """Of `attend`: dq, dk, dv in float32. With P the weights, dS = P∘(dP − Σ P∘dP)."""
    powers, total = powers_and_sums(decayed_products(q, k, x, y, x, y, GRID, PRECISION), SCALE)
    weights = powers * (1.0 / total)[:, None]
    dweights = tl.dot(dout, tl.trans(v), input_precision=PRECISION)
    delta = tl.sum(weights * dweights, 1) * SCALE
    dproducts = (weights * (dweights * SCALE - delta[:, None])).to(q.dtype)
    dv = tl.dot(tl.trans(weights.to(dout.dtype)), dout, input_precision=PRECISION)
    return (
        tl.dot(dproducts, k, input_precision=PRECISION),
        tl.dot(tl.trans(dproducts), q, input_precision=PRECISION),
        dv,
    )
