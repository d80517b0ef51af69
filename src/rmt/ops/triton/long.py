"""Attention along long lines, or over a large grid, block by block with a running maximum (flash attention).

The blocks that a program loops over are rotated beforehand, by `rotate`, since they are read many times. Forward loops
over the keys within the head's window (`windows.py`), or over all. Backward takes the logarithm of each query's sum of
weights from a second forward and recomputes the scores, once for the gradients of the queries and once for those of
keys and values: each gradient is written by one program, so results are deterministic.
"""

import triton
import triton.language as tl

from rmt.ops.triton.tiles import (
    LOG2_E,
    decay_rate,
    decayed_products,
    decays,
    load,
    load_rotated,
    phases,
    store,
    store_unrotated,
)


@triton.jit
def rotate(
    x, out, cos_table, sin_table, x_image, x_line, x_token, x_head, out_image, out_line, out_token, out_head,
    heads, length, position_line,
    CHANNELS: tl.constexpr, PAIRS: tl.constexpr, TOKENS: tl.constexpr, HALF_SPLIT: tl.constexpr,
):  # fmt: skip
    """The rotated tokens of rows, their pairs adjacent in `out`. Grid: (heads·⌈length/TOKENS⌉, lines, images)."""
    head, line, image = tl.program_id(0) % heads, tl.program_id(1), tl.program_id(2).to(tl.int64)
    token = tl.program_id(0) // heads * TOKENS + tl.arange(0, TOKENS)
    inside = token < length
    cos, sin = phases(cos_table, sin_table, line * position_line + token, inside, CHANNELS, PAIRS)
    here = x + image * x_image + head * x_head + line * x_line
    tile = load_rotated(here, token * x_token, inside, cos, sin, CHANNELS, HALF_SPLIT)
    store(out + image * out_image + head * out_head + line * out_line, token * out_token, inside, tile, CHANNELS, PAIRS)


@triton.jit
def visible(first, length, width, radius, M: tl.constexpr, GRID: tl.constexpr):
    """The range of tokens within the windows of the M queries from `first` on."""
    last = min(first + M, length) - 1
    if GRID:
        start, end = (first // width - radius) * width, (last // width + radius + 1) * width
    else:
        start, end = first - radius, last + radius + 1
    return max(0, start), min(length, end)


@triton.jit
def block_decays(first, inside, width, rate, other_x, N: tl.constexpr, GRID: tl.constexpr):
    """`decays` of the N tokens from `first` on, and `other_x`, both along a line from `first`.

    A loop over blocks then changes only the few other tokens of a thread, and near tokens have small rounding errors.
    """
    if GRID:
        x, y = decays(first + tl.arange(0, N), inside, width, rate, GRID)
        return x, y, other_x
    x, y = decays(tl.arange(0, N), inside, width, rate, GRID)
    return x, y, other_x - first * rate


@triton.jit
def attend_keys(
    largest, total, tile, q_tile, queries, query_x, query_y, k, v, k_token, v_token,
    key, length, width, rate, radius,
    CHANNELS: tl.constexpr, PAIRS: tl.constexpr, N: tl.constexpr, GRID: tl.constexpr, WINDOW: tl.constexpr,
    MASK: tl.constexpr, SCALE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The running maximum, sum and output after the N keys from `key` on, which may be beyond the end with MASK."""
    factor: tl.constexpr = SCALE * LOG2_E
    keys = key + tl.arange(0, N)
    here = keys < length if MASK else tl.full([N], True, tl.int1)
    k_tile = load(k, keys * k_token, here, CHANNELS, PAIRS)
    v_tile = load(v, keys * v_token, here, CHANNELS, PAIRS)
    key_x, key_y, query_x = block_decays(key, here, width, rate, query_x, N, GRID)
    products = decayed_products(q_tile, k_tile, query_x, query_y, key_x, key_y, GRID, PRECISION)
    if WINDOW:
        if GRID:
            across = tl.abs(queries[:, None] // width - keys[None, :] // width)
        else:
            across = tl.abs(queries[:, None] - keys[None, :])
        products = tl.where(across <= radius, products, -1e30)
    larger = tl.maximum(largest, tl.max(products, 1))
    powers = tl.exp2(products * factor - (larger * factor)[:, None])
    shrink = tl.exp2((largest - larger) * factor)
    total = total * shrink + tl.sum(powers, 1)
    tile = tile * shrink[:, None] + tl.dot(powers.to(v_tile.dtype), v_tile, input_precision=PRECISION)
    return larger, total, tile


@triton.jit
def forward(
    q, k, v, out, log_totals, cos_table, sin_table, log_gammas, radii,
    q_image, q_line, q_token, q_head, k_image, k_line, k_token, k_head, v_image, v_line, v_token, v_head,
    out_image, out_line, out_token, out_head,
    heads, lines, length, position_line, position_token, width,
    CHANNELS: tl.constexpr, PAIRS: tl.constexpr, M: tl.constexpr, N: tl.constexpr, TAIL: tl.constexpr,
    GRID: tl.constexpr, WINDOW: tl.constexpr, KEEP: tl.constexpr, HALF_SPLIT: tl.constexpr, DECAY: tl.constexpr,
    SCALE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid: (heads·lines·⌈length/M⌉, 1, images). With KEEP, log₂ of each query's total weight goes to `log_totals`, for
    lines padded to a multiple of M with ∞.

    TAIL: size of the last block, for the keys beyond a multiple of N; 0 if there are none, and with WINDOW.
    """
    head, part, image = tl.program_id(0) % heads, tl.program_id(0) // heads, tl.program_id(2).to(tl.int64)
    blocks = tl.cdiv(length, M)
    line, first = part // blocks, part % blocks * M
    place = line * position_line
    q += image * q_image + head * q_head + line * q_line
    k += image * k_image + head * k_head + line * k_line
    v += image * v_image + head * v_head + line * v_line
    rate, radius = decay_rate(log_gammas, head, DECAY, SCALE), length
    start, end = 0, length
    if WINDOW:
        radius = tl.load(radii + head)
        start, end = visible(first, length, width, radius, M, GRID)
    elif TAIL:
        end = length // N * N

    queries = first + tl.arange(0, M)
    inside = queries < length
    cos, sin = phases(cos_table, sin_table, place + queries * position_token, inside, CHANNELS, PAIRS)
    q_tile = load_rotated(q, queries * q_token, inside, cos, sin, CHANNELS, HALF_SPLIT)
    query_x, query_y = decays(queries, inside, width, rate, GRID)
    largest = tl.full([M], -1e30, tl.float32)  # finite: a query may see no key of a block
    total = tl.zeros([M], tl.float32)
    tile = tl.zeros([M, 2 * PAIRS], tl.float32)
    for key in range(start, end, N):
        largest, total, tile = attend_keys(
            largest, total, tile, q_tile, queries, query_x, query_y, k, v, k_token, v_token,
            key, length, width, rate, radius, CHANNELS, PAIRS, N, GRID, WINDOW, WINDOW, SCALE, PRECISION,
        )  # fmt: skip
    if TAIL:
        largest, total, tile = attend_keys(
            largest, total, tile, q_tile, queries, query_x, query_y, k, v, k_token, v_token,
            end, length, width, rate, radius, CHANNELS, PAIRS, TAIL, GRID, WINDOW, True, SCALE, PRECISION,
        )  # fmt: skip
    out += image * out_image + head * out_head + line * out_line
    total = tl.maximum(total, 1e-30)  # queries beyond the end may see no key
    store(out, queries * out_token, inside, tile * (1.0 / total)[:, None], CHANNELS, PAIRS)
    if KEEP:
        log_total = largest * (SCALE * LOG2_E) + tl.log2(total)
        padded = blocks * M
        kept = log_totals + ((image * heads + head) * lines + line) * padded + queries
        tl.store(kept, tl.where(inside, log_total, float("inf")))  # queries beyond the end: weights of 0


@triton.jit
def query_gradient(
    dq_tile, q_tile, dout_tile, log_total, delta, query_x, query_y, k, v, k_token, v_token,
    key, length, width, rate,
    CHANNELS: tl.constexpr, PAIRS: tl.constexpr, N: tl.constexpr, GRID: tl.constexpr, MASK: tl.constexpr,
    SCALE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dq_tile with the part of the N keys from `key` on, which may be beyond the end with MASK."""
    keys = key + tl.arange(0, N)
    here = keys < length if MASK else tl.full([N], True, tl.int1)
    k_tile = load(k, keys * k_token, here, CHANNELS, PAIRS)
    v_tile = load(v, keys * v_token, here, CHANNELS, PAIRS)
    key_x, key_y, query_x = block_decays(key, here, width, rate, query_x, N, GRID)
    products = decayed_products(q_tile, k_tile, query_x, query_y, key_x, key_y, GRID, PRECISION)
    weights = tl.exp2(products * (SCALE * LOG2_E) - log_total[:, None])
    dproducts = weights * (tl.dot(dout_tile, tl.trans(v_tile), input_precision=PRECISION) - delta[:, None])
    return tl.dot(dproducts.to(k_tile.dtype), k_tile, dq_tile, input_precision=PRECISION)


@triton.jit
def backward_queries(
    q, k, v, out, dout, dq, log_totals, deltas, cos_table, sin_table, log_gammas,
    q_image, q_line, q_token, q_head, k_image, k_line, k_token, k_head, v_image, v_line, v_token, v_head,
    out_image, out_line, out_token, out_head, dout_image, dout_line, dout_token, dout_head,
    d_image, d_line, d_token, d_head,
    heads, lines, length, padded, position_line, position_token, width,
    ADD: tl.constexpr, CHANNELS: tl.constexpr, PAIRS: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    TAIL: tl.constexpr, GRID: tl.constexpr, HALF_SPLIT: tl.constexpr, DECAY: tl.constexpr, SCALE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """dq, and δ = out·dout of each query for `backward_keys`. Grid and TAIL as `forward`; M a divisor of its M."""
    head, part, image = tl.program_id(0) % heads, tl.program_id(0) // heads, tl.program_id(2).to(tl.int64)
    blocks = tl.cdiv(length, M)
    line, first = part // blocks, part % blocks * M
    place = line * position_line
    k += image * k_image + head * k_head + line * k_line
    v += image * v_image + head * v_head + line * v_line
    rate = decay_rate(log_gammas, head, DECAY, SCALE)

    queries = first + tl.arange(0, M)
    inside = queries < length
    cos, sin = phases(cos_table, sin_table, place + queries * position_token, inside, CHANNELS, PAIRS)
    q_here = q + image * q_image + head * q_head + line * q_line
    q_tile = load_rotated(q_here, queries * q_token, inside, cos, sin, CHANNELS, HALF_SPLIT)
    query_x, query_y = decays(queries, inside, width, rate, GRID)
    out_here = out + image * out_image + head * out_head + line * out_line
    out_tile = load(out_here, queries * out_token, inside, CHANNELS, PAIRS)
    dout_here = dout + image * dout_image + head * dout_head + line * dout_line
    dout_tile = load(dout_here, queries * dout_token, inside, CHANNELS, PAIRS)
    kept = ((image * heads + head) * lines + line) * padded + queries
    log_total = tl.load(log_totals + kept)
    delta = tl.sum(out_tile.to(tl.float32) * dout_tile.to(tl.float32), 1)
    tl.store(deltas + kept, delta)
    dq_tile = tl.zeros([M, 2 * PAIRS], tl.float32)
    whole = length // N * N
    for key in range(0, whole, N):
        dq_tile = query_gradient(
            dq_tile, q_tile, dout_tile, log_total, delta, query_x, query_y, k, v, k_token, v_token,
            key, length, width, rate,
            CHANNELS, PAIRS, N, GRID, False, SCALE, PRECISION,
        )  # fmt: skip
    if TAIL:
        dq_tile = query_gradient(
            dq_tile, q_tile, dout_tile, log_total, delta, query_x, query_y, k, v, k_token, v_token,
            whole, length, width, rate,
            CHANNELS, PAIRS, TAIL, GRID, True, SCALE, PRECISION,
        )  # fmt: skip
    d_here = dq + image * d_image + head * d_head + line * d_line
    store_unrotated(d_here, queries * d_token, inside, dq_tile * SCALE, cos, sin, ADD, CHANNELS, HALF_SPLIT)


@triton.jit
def backward_keys(
    q, k, v, dout, dk, dv, log_totals, deltas, cos_table, sin_table, log_gammas,
    q_image, q_line, q_token, q_head, k_image, k_line, k_token, k_head, v_image, v_line, v_token, v_head,
    dout_image, dout_line, dout_token, dout_head, d_image, d_line, d_token, d_head,
    heads, lines, length, padded, position_line, position_token, width,
    ADD: tl.constexpr, CHANNELS: tl.constexpr, PAIRS: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    GRID: tl.constexpr, HALF_SPLIT: tl.constexpr, DECAY: tl.constexpr, SCALE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dk and dv, from the δ of `backward_queries`. Grid: (heads·lines·⌈length/N⌉, 1, images).

    Keys are the rows of the products here, so that the gradients of both are sums over columns.
    """
    head, part, image = tl.program_id(0) % heads, tl.program_id(0) // heads, tl.program_id(2).to(tl.int64)
    blocks = tl.cdiv(length, N)
    line, first = part // blocks, part % blocks * N
    place = line * position_line
    q += image * q_image + head * q_head + line * q_line
    dout += image * dout_image + head * dout_head + line * dout_line
    rate = decay_rate(log_gammas, head, DECAY, SCALE)
    kept = ((image * heads + head) * lines + line) * padded

    keys = first + tl.arange(0, N)
    inside = keys < length
    cos, sin = phases(cos_table, sin_table, place + keys * position_token, inside, CHANNELS, PAIRS)
    k_here = k + image * k_image + head * k_head + line * k_line
    k_tile = load_rotated(k_here, keys * k_token, inside, cos, sin, CHANNELS, HALF_SPLIT)
    v_here = v + image * v_image + head * v_head + line * v_line
    v_tile = load(v_here, keys * v_token, inside, CHANNELS, PAIRS)
    key_x, key_y = decays(keys, inside, width, rate, GRID)
    dk_tile = tl.zeros([N, 2 * PAIRS], tl.float32)
    dv_tile = tl.zeros([N, 2 * PAIRS], tl.float32)
    for query in range(0, length, M):
        queries = query + tl.arange(0, M)
        here = queries < length
        q_tile = load(q, queries * q_token, here, CHANNELS, PAIRS)
        dout_tile = load(dout, queries * dout_token, here, CHANNELS, PAIRS)
        every = tl.full([M], True, tl.int1)  # queries beyond the end have weights of 0 by their `log_totals`
        query_x, query_y, near_x = block_decays(query, every, width, rate, key_x, M, GRID)
        log_total = tl.load(log_totals + kept + queries)
        delta = tl.load(deltas + kept + queries)
        products = decayed_products(k_tile, q_tile, near_x, key_y, query_x, query_y, GRID, PRECISION)
        weights = tl.exp2(products * (SCALE * LOG2_E) - log_total[None, :])
        dv_tile += tl.dot(weights.to(dout_tile.dtype), dout_tile, input_precision=PRECISION)
        dweights = tl.dot(v_tile, tl.trans(dout_tile), input_precision=PRECISION)
        dproducts = (weights * (dweights - delta[None, :])).to(q_tile.dtype)
        dk_tile += tl.dot(dproducts, q_tile, input_precision=PRECISION)
    d_here = image * d_image + head * d_head + line * d_line
    store_unrotated(dk + d_here, keys * d_token, inside, dk_tile * SCALE, cos, sin, ADD, CHANNELS, HALF_SPLIT)
    store(dv + d_here, keys * d_token, inside, dv_tile, CHANNELS, PAIRS)
