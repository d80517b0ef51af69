"""Attention along short lines, each whole line in one block: a row pass, a column pass, or a small grid in full.

A program takes one head in several images, line after line: phases and decay depend only on the position and are
computed once for a line, in registers.
"""

import triton
import triton.language as tl

from rmt.ops.triton.tiles import (
    attend,
    decay_rate,
    decays,
    gradients,
    load,
    load_pairs,
    load_rotated,
    phases,
    rotated,
    store,
    store_unrotated,
)


@triton.jit
def forward(
    q, k, v, out, cos_table, sin_table, log_gammas,
    q_image, q_line, q_token, q_head, k_image, k_line, k_token, k_head, v_image, v_line, v_token, v_head,
    out_image, out_line, out_token, out_head,
    images, lines, length, position_line, position_token, width, each,
    CHANNELS: tl.constexpr, PAIRS: tl.constexpr, L: tl.constexpr, PREFETCH: tl.constexpr,
    GRID: tl.constexpr, HALF_SPLIT: tl.constexpr, DECAY: tl.constexpr, SCALE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid: (heads, ⌈lines·images/each⌉)."""
    head, token = tl.program_id(0), tl.arange(0, L)
    inside = token < length
    x, y = decays(token, inside, width, decay_rate(log_gammas, head, DECAY, SCALE), GRID)
    q += head * q_head
    k += head * k_head
    v += head * v_head
    out += head * out_head

    first = tl.program_id(1) * each
    last = min(first + each, lines * images)
    for line in range(first // images, tl.cdiv(last, images)):
        place = line * position_line + token * position_token
        cos, sin = phases(cos_table, sin_table, place, inside, CHANNELS, PAIRS)
        q_tokens, k_tokens = line * q_line + token * q_token, line * k_line + token * k_token
        v_tokens, out_tokens = line * v_line + token * v_token, line * out_line + token * out_token
        start, end = tl.maximum(first - line * images, 0), tl.minimum(last - line * images, images)
        i = start.to(tl.int64)
        if PREFETCH:
            q_a, q_b = load_pairs(q + i * q_image, q_tokens, inside, CHANNELS, PAIRS, HALF_SPLIT)
            k_a, k_b = load_pairs(k + i * k_image, k_tokens, inside, CHANNELS, PAIRS, HALF_SPLIT)
            v_next = load(v + i * v_image, v_tokens, inside, CHANNELS, PAIRS)
            for image in range(start, end):
                q_tile = rotated(q_a, q_b, cos, sin)
                k_tile, v_tile = rotated(k_a, k_b, cos, sin), v_next
                ahead, j = inside & (image + 1 < end), i + 1
                q_a, q_b = load_pairs(q + j * q_image, q_tokens, ahead, CHANNELS, PAIRS, HALF_SPLIT)
                k_a, k_b = load_pairs(k + j * k_image, k_tokens, ahead, CHANNELS, PAIRS, HALF_SPLIT)
                v_next = load(v + j * v_image, v_tokens, ahead, CHANNELS, PAIRS)
                tile = attend(q_tile, k_tile, v_tile, x, y, GRID, SCALE, PRECISION)
                store(out + i * out_image, out_tokens, inside, tile, CHANNELS, PAIRS)
                i += 1
        else:
            for _ in range(start, end):
                q_tile = load_rotated(q + i * q_image, q_tokens, inside, cos, sin, CHANNELS, HALF_SPLIT)
                k_tile = load_rotated(k + i * k_image, k_tokens, inside, cos, sin, CHANNELS, HALF_SPLIT)
                v_tile = load(v + i * v_image, v_tokens, inside, CHANNELS, PAIRS)
                tile = attend(q_tile, k_tile, v_tile, x, y, GRID, SCALE, PRECISION)
                store(out + i * out_image, out_tokens, inside, tile, CHANNELS, PAIRS)
                i += 1


@triton.jit
def backward(
    q, k, v, dout, dq, dk, dv, cos_table, sin_table, log_gammas,
    q_image, q_line, q_token, q_head, k_image, k_line, k_token, k_head, v_image, v_line, v_token, v_head,
    dout_image, dout_line, dout_token, dout_head, d_image, d_line, d_token, d_head,
    images, lines, length, position_line, position_token, width, each,
    ADD: tl.constexpr, CHANNELS: tl.constexpr, PAIRS: tl.constexpr, L: tl.constexpr,
    GRID: tl.constexpr, HALF_SPLIT: tl.constexpr, DECAY: tl.constexpr, SCALE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """As `forward`; dq, dk and dv have the strides d_*. With ADD, dq and dk are added to what the memory contains."""
    head, token = tl.program_id(0), tl.arange(0, L)
    inside = token < length
    x, y = decays(token, inside, width, decay_rate(log_gammas, head, DECAY, SCALE), GRID)
    q += head * q_head
    k += head * k_head
    v += head * v_head
    dout += head * dout_head
    dq += head * d_head
    dk += head * d_head
    dv += head * d_head

    first = tl.program_id(1) * each
    last = min(first + each, lines * images)
    for line in range(first // images, tl.cdiv(last, images)):
        place = line * position_line + token * position_token
        cos, sin = phases(cos_table, sin_table, place, inside, CHANNELS, PAIRS)
        q_tokens, k_tokens = line * q_line + token * q_token, line * k_line + token * k_token
        v_tokens, dout_tokens = line * v_line + token * v_token, line * dout_line + token * dout_token
        d_tokens = line * d_line + token * d_token
        start, end = tl.maximum(first - line * images, 0), tl.minimum(last - line * images, images)
        i = start.to(tl.int64)
        for _ in range(start, end):
            q_tile = load_rotated(q + i * q_image, q_tokens, inside, cos, sin, CHANNELS, HALF_SPLIT)
            k_tile = load_rotated(k + i * k_image, k_tokens, inside, cos, sin, CHANNELS, HALF_SPLIT)
            v_tile = load(v + i * v_image, v_tokens, inside, CHANNELS, PAIRS)
            dout_tile = load(dout + i * dout_image, dout_tokens, inside, CHANNELS, PAIRS)
            dq_tile, dk_tile, dv_tile = gradients(q_tile, k_tile, v_tile, dout_tile, x, y, GRID, SCALE, PRECISION)
            store_unrotated(dq + i * d_image, d_tokens, inside, dq_tile, cos, sin, ADD, CHANNELS, HALF_SPLIT)
            store_unrotated(dk + i * d_image, d_tokens, inside, dk_tile, cos, sin, ADD, CHANNELS, HALF_SPLIT)
            store(dv + i * d_image, d_tokens, inside, dv_tile, CHANNELS, PAIRS)
            i += 1
