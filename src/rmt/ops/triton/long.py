"""Attention along long lines, or over a large grid, block by block with a running maximum (flash attention).

Forward loops over the keys within the head's window (`windows.py`), or over all. Backward takes the logarithm of each
query's sum of weights from a second forward and recomputes the scores, once for the gradients of the queries and
once for those of keys and values: each gradient is written by one program, so results are deterministic.
"""

import triton
import triton.language as tl

from rmt.ops.triton.tiles import LOG2_E, decay_rate, load, load_rotated, phases, store, store_unrotated


@triton.jit
def block_bias(queries, keys, length, width, log2_gamma, radius, GRID: tl.constexpr, WINDOW: tl.constexpr):
    """(M, N): the decay between queries (M,) and keys (N,) to base 2, −∞ for keys outside the line or the window."""
    if GRID:
        across = tl.abs(queries[:, None] // width - keys[None, :] // width)
        distance = across + tl.abs(queries[:, None] % width - keys[None, :] % width)
    else:
        across = tl.abs(queries[:, None] - keys[None, :])
        distance = across
    seen = (keys < length)[None, :]
    if WINDOW:
        seen = seen & (across <= radius)
    return tl.where(seen, distance.to(tl.float32) * log2_gamma, float("-inf"))


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
def forward(
    q, k, v, out, log_totals, cos_table, sin_table, log_gammas, radii,
    q_image, q_line, q_token, q_head, k_image, k_line, k_token, k_head, v_image, v_line, v_token, v_head,
    out_image, out_line, out_token, out_head,
    heads, lines, length, position_line, position_token, width,
    CHANNELS: tl.constexpr, PAIRS: tl.constexpr, M: tl.constexpr, N: tl.constexpr, GRID: tl.constexpr,
    WINDOW: tl.constexpr, KEEP: tl.constexpr, HALF_SPLIT: tl.constexpr, DECAY: tl.constexpr, SCALE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid: (heads, lines·⌈length/M⌉, images). With KEEP, log₂ of each query's total weight goes to `log_totals`."""
    head, image = tl.program_id(0), tl.program_id(2).to(tl.int64)
    blocks = tl.cdiv(length, M)
    line, first = tl.program_id(1) // blocks, tl.program_id(1) % blocks * M
    q += image * q_image + head * q_head + line * q_line
    k += image * k_image + head * k_head + line * k_line
    v += image * v_image + head * v_head + line * v_line
    log2_gamma, radius = decay_rate(log_gammas, head, DECAY), length
    start, end = 0, length
    if WINDOW:
        radius = tl.load(radii + head)
        start, end = visible(first, length, width, radius, M, GRID)

    queries = first + tl.arange(0, M)
    inside = queries < length
    cos, sin = phases(cos_table, sin_table, line * position_line + queries * position_token, inside, CHANNELS, PAIRS)
    q_tile = load_rotated(q, queries * q_token, inside, cos, sin, CHANNELS, HALF_SPLIT)
    largest = tl.full([M], -1e30, tl.float32)  # finite: a query may see no key of a block
    total = tl.zeros([M], tl.float32)
    tile = tl.zeros([M, 2 * PAIRS], tl.float32)
    for key in range(start, end, N):
        keys = key + tl.arange(0, N)
        here = keys < length
        k_cos, k_sin = phases(cos_table, sin_table, line * position_line + keys * position_token, here, CHANNELS, PAIRS)
        k_tile = load_rotated(k, keys * k_token, here, k_cos, k_sin, CHANNELS, HALF_SPLIT)
        v_tile = load(v, keys * v_token, here, CHANNELS, PAIRS)
        bias = block_bias(queries, keys, length, width, log2_gamma, radius, GRID, WINDOW)
        logits = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION) * (SCALE * LOG2_E) + bias
        larger = tl.maximum(largest, tl.max(logits, 1))
        powers, shrink = tl.exp2(logits - larger[:, None]), tl.exp2(largest - larger)
        total = total * shrink + tl.sum(powers, 1)
        tile = tile * shrink[:, None] + tl.dot(powers.to(v_tile.dtype), v_tile, input_precision=PRECISION)
        largest = larger
    out += image * out_image + head * out_head + line * out_line
    total = tl.maximum(total, 1e-30)  # queries beyond the end may see no key
    store(out, queries * out_token, inside, tile / total[:, None], CHANNELS, PAIRS)
    if KEEP:
        kept = log_totals + (image * heads + head) * lines * length + line * length + queries
        tl.store(kept, largest + tl.log2(total), mask=inside)


@triton.jit
def backward_queries(
    q, k, v, out, dout, dq, log_totals, deltas, cos_table, sin_table, log_gammas,
    q_image, q_line, q_token, q_head, k_image, k_line, k_token, k_head, v_image, v_line, v_token, v_head,
    out_image, out_line, out_token, out_head, dout_image, dout_line, dout_token, dout_head,
    d_image, d_line, d_token, d_head,
    heads, lines, length, position_line, position_token, width,
    ADD: tl.constexpr, CHANNELS: tl.constexpr, PAIRS: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    GRID: tl.constexpr, HALF_SPLIT: tl.constexpr, DECAY: tl.constexpr, SCALE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dq, and δ = out·dout of each query for `backward_keys`. Grid as `forward`."""
    head, image = tl.program_id(0), tl.program_id(2).to(tl.int64)
    blocks = tl.cdiv(length, M)
    line, first = tl.program_id(1) // blocks, tl.program_id(1) % blocks * M
    k += image * k_image + head * k_head + line * k_line
    v += image * v_image + head * v_head + line * v_line
    log2_gamma = decay_rate(log_gammas, head, DECAY)

    queries = first + tl.arange(0, M)
    inside = queries < length
    cos, sin = phases(cos_table, sin_table, line * position_line + queries * position_token, inside, CHANNELS, PAIRS)
    q_here = q + image * q_image + head * q_head + line * q_line
    q_tile = load_rotated(q_here, queries * q_token, inside, cos, sin, CHANNELS, HALF_SPLIT)
    out_here = out + image * out_image + head * out_head + line * out_line
    out_tile = load(out_here, queries * out_token, inside, CHANNELS, PAIRS)
    dout_here = dout + image * dout_image + head * dout_head + line * dout_line
    dout_tile = load(dout_here, queries * dout_token, inside, CHANNELS, PAIRS)
    kept = (image * heads + head) * lines * length + line * length + queries
    log_total = tl.load(log_totals + kept, mask=inside, other=0.0)
    delta = tl.sum(out_tile.to(tl.float32) * dout_tile.to(tl.float32), 1)
    tl.store(deltas + kept, delta, mask=inside)
    dq_tile = tl.zeros([M, 2 * PAIRS], tl.float32)
    for key in range(0, length, N):
        keys = key + tl.arange(0, N)
        here = keys < length
        k_cos, k_sin = phases(cos_table, sin_table, line * position_line + keys * position_token, here, CHANNELS, PAIRS)
        k_tile = load_rotated(k, keys * k_token, here, k_cos, k_sin, CHANNELS, HALF_SPLIT)
        v_tile = load(v, keys * v_token, here, CHANNELS, PAIRS)
        bias = block_bias(queries, keys, length, width, log2_gamma, length, GRID, False)
        logits = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION) * (SCALE * LOG2_E) + bias
        weights = tl.exp2(logits - log_total[:, None])
        dscores = weights * (tl.dot(dout_tile, tl.trans(v_tile), input_precision=PRECISION) - delta[:, None]) * SCALE
        dq_tile += tl.dot(dscores.to(k_tile.dtype), k_tile, input_precision=PRECISION)
    d_here = dq + image * d_image + head * d_head + line * d_line
    store_unrotated(d_here, queries * d_token, inside, dq_tile, cos, sin, ADD, CHANNELS, HALF_SPLIT)


@triton.jit
def backward_keys(
    q, k, v, dout, dk, dv, log_totals, deltas, cos_table, sin_table, log_gammas,
    q_image, q_line, q_token, q_head, k_image, k_line, k_token, k_head, v_image, v_line, v_token, v_head,
    dout_image, dout_line, dout_token, dout_head, d_image, d_line, d_token, d_head,
    heads, lines, length, position_line, position_token, width,
    ADD: tl.constexpr, CHANNELS: tl.constexpr, PAIRS: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    GRID: tl.constexpr, HALF_SPLIT: tl.constexpr, DECAY: tl.constexpr, SCALE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dk and dv, from the δ of `backward_queries`. Grid: (heads, lines·⌈length/N⌉, images)."""
    head, image = tl.program_id(0), tl.program_id(2).to(tl.int64)
    blocks = tl.cdiv(length, N)
    line, first = tl.program_id(1) // blocks, tl.program_id(1) % blocks * N
    q += image * q_image + head * q_head + line * q_line
    dout += image * dout_image + head * dout_head + line * dout_line
    log2_gamma = decay_rate(log_gammas, head, DECAY)
    kept = (image * heads + head) * lines * length + line * length

    keys = first + tl.arange(0, N)
    inside = keys < length
    cos, sin = phases(cos_table, sin_table, line * position_line + keys * position_token, inside, CHANNELS, PAIRS)
    k_here = k + image * k_image + head * k_head + line * k_line
    k_tile = load_rotated(k_here, keys * k_token, inside, cos, sin, CHANNELS, HALF_SPLIT)
    v_here = v + image * v_image + head * v_head + line * v_line
    v_tile = load(v_here, keys * v_token, inside, CHANNELS, PAIRS)
    dk_tile = tl.zeros([N, 2 * PAIRS], tl.float32)
    dv_tile = tl.zeros([N, 2 * PAIRS], tl.float32)
    for query in range(0, length, M):
        queries = query + tl.arange(0, M)
        here = queries < length
        q_cos, q_sin = phases(
            cos_table, sin_table, line * position_line + queries * position_token, here, CHANNELS, PAIRS
        )
        q_tile = load_rotated(q, queries * q_token, here, q_cos, q_sin, CHANNELS, HALF_SPLIT)
        dout_tile = load(dout, queries * dout_token, here, CHANNELS, PAIRS)
        # Queries beyond the end have weight 0: 2^(logits − ∞).
        log_total = tl.load(log_totals + kept + queries, mask=here, other=float("inf"))
        delta = tl.load(deltas + kept + queries, mask=here, other=0.0)
        bias = block_bias(queries, keys, length, width, log2_gamma, length, GRID, False)
        logits = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION) * (SCALE * LOG2_E) + bias
        weights = tl.exp2(logits - log_total[:, None])
        dv_tile += tl.dot(tl.trans(weights.to(dout_tile.dtype)), dout_tile, input_precision=PRECISION)
        dscores = weights * (tl.dot(dout_tile, tl.trans(v_tile), input_precision=PRECISION) - delta[:, None]) * SCALE
        dk_tile += tl.dot(tl.trans(dscores.to(q_tile.dtype)), q_tile, input_precision=PRECISION)
    d_here = image * d_image + head * d_head + line * d_line
    store_unrotated(dk + d_here, keys * d_token, inside, dk_tile, cos, sin, ADD, CHANNELS, HALF_SPLIT)
    store(dv + d_here, keys * d_token, inside, dv_tile, CHANNELS, PAIRS)
