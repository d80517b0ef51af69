"""Attention along short lines, each whole line in one block: a row pass, a column pass, or a small grid in full.

A program takes one line of one head in several images: phases and decay depend only on the position and are computed
once, in registers.
"""

import triton
import triton.language as tl

from rmt.ops.triton.tiles import (
    attend,
    decay_rate,
    gradients,
    grid_bias,
    line_bias,
    load,
    load_rotated,
    phases,
    store,
    store_unrotated,
)


@triton.jit
def forward(
    q, k, v, out, cos_table, sin_table, log_gammas,
    q_image, q_line, q_token, q_head, k_image, k_line, k_token, k_head, v_image, v_line, v_token, v_head,
    out_image, out_line, out_token, out_head,
    images, length, position_line, position_token, width, images_each,
    CHANNELS: tl.constexpr, PAIRS: tl.constexpr, L: tl.constexpr, GRID: tl.constexpr, HALF_SPLIT: tl.constexpr,
    DECAY: tl.constexpr, SCALE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid: (heads, lines, ⌈images/images_each⌉)."""
    head = tl.program_id(0)
    line, token = tl.program_id(1), tl.arange(0, L)
    inside = token < length
    cos, sin = phases(cos_table, sin_table, line * position_line + token * position_token, inside, CHANNELS, PAIRS)
    log2_gamma = decay_rate(log_gammas, head, DECAY)
    bias = grid_bias(length, width, log2_gamma, L) if GRID else line_bias(length, log2_gamma, L)
    q_tokens, k_tokens = line * q_line + token * q_token, line * k_line + token * k_token
    v_tokens, out_tokens = line * v_line + token * v_token, line * out_line + token * out_token

    first = tl.program_id(2) * images_each
    i = first.to(tl.int64)
    for _ in range(first, min(first + images_each, images)):
        q_tile = load_rotated(q + i * q_image + head * q_head, q_tokens, inside, cos, sin, CHANNELS, HALF_SPLIT)
        k_tile = load_rotated(k + i * k_image + head * k_head, k_tokens, inside, cos, sin, CHANNELS, HALF_SPLIT)
        v_tile = load(v + i * v_image + head * v_head, v_tokens, inside, CHANNELS, PAIRS)
        tile = attend(q_tile, k_tile, v_tile, bias, SCALE, PRECISION)
        store(out + i * out_image + head * out_head, out_tokens, inside, tile, CHANNELS, PAIRS)
        i += 1


@triton.jit
def backward(
    q, k, v, dout, dq, dk, dv, cos_table, sin_table, log_gammas,
    q_image, q_line, q_token, q_head, k_image, k_line, k_token, k_head, v_image, v_line, v_token, v_head,
    dout_image, dout_line, dout_token, dout_head, d_image, d_line, d_token, d_head,
    images, length, position_line, position_token, width, images_each,
    ADD: tl.constexpr, CHANNELS: tl.constexpr, PAIRS: tl.constexpr, L: tl.constexpr, GRID: tl.constexpr,
    HALF_SPLIT: tl.constexpr, DECAY: tl.constexpr, SCALE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """As `forward`; dq, dk and dv have the strides d_*. With ADD, dq and dk are added to what the memory contains."""
    head = tl.program_id(0)
    line, token = tl.program_id(1), tl.arange(0, L)
    inside = token < length
    cos, sin = phases(cos_table, sin_table, line * position_line + token * position_token, inside, CHANNELS, PAIRS)
    log2_gamma = decay_rate(log_gammas, head, DECAY)
    bias = grid_bias(length, width, log2_gamma, L) if GRID else line_bias(length, log2_gamma, L)
    q_tokens, k_tokens = line * q_line + token * q_token, line * k_line + token * k_token
    v_tokens, dout_tokens = line * v_line + token * v_token, line * dout_line + token * dout_token
    d_tokens = line * d_line + token * d_token

    first = tl.program_id(2) * images_each
    i = first.to(tl.int64)
    for _ in range(first, min(first + images_each, images)):
        q_tile = load_rotated(q + i * q_image + head * q_head, q_tokens, inside, cos, sin, CHANNELS, HALF_SPLIT)
        k_tile = load_rotated(k + i * k_image + head * k_head, k_tokens, inside, cos, sin, CHANNELS, HALF_SPLIT)
        v_tile = load(v + i * v_image + head * v_head, v_tokens, inside, CHANNELS, PAIRS)
        dout_tile = load(dout + i * dout_image + head * dout_head, dout_tokens, inside, CHANNELS, PAIRS)
        dq_tile, dk_tile, dv_tile = gradients(q_tile, k_tile, v_tile, dout_tile, bias, SCALE, PRECISION)
        here = i * d_image + head * d_head
        store_unrotated(dq + here, d_tokens, inside, dq_tile, cos, sin, ADD, CHANNELS, HALF_SPLIT)
        store_unrotated(dk + here, d_tokens, inside, dk_tile, cos, sin, ADD, CHANNELS, HALF_SPLIT)
        store(dv + here, d_tokens, inside, dv_tile, CHANNELS, PAIRS)
        i += 1
