"""MaSA through PyTorch's scaled_dot_product_attention, the decay as its additive mask.

Equal to `plain` to 1e-5 in float32, forward and gradients. The full form needs a table of (h·w)² entries per head, so
it serves small grids alone.
"""

import functools

import torch.nn.functional as F
from torch import Tensor

from rmt.ops.decay import SpatialPrior
from rmt.ops.form import Form
from rmt.ops.lines import as_one_line, rows_then_columns
from rmt.ops.plain import rotate_pairs

MAX_TOKENS = 400  # of the full form: a table of 16 heads is 10 MB then


def unusable(q: Tensor, form: Form, needs_grad: bool) -> str | None:
    """Why this backend cannot serve such a call; None if it can."""
    if form.decay == "paper":
        return "it has no decay after the softmax"
    if not form.decomposed and q.shape[1] * q.shape[2] > MAX_TOKENS:
        return f"the full form of more than {MAX_TOKENS} tokens would need a (tokens × tokens) table"
    return None


def attend(q: Tensor, k: Tensor, v: Tensor, prior: SpatialPrior, form: Form) -> Tensor:
    """As `plain.attend`."""
    q, k = rotate_pairs(q, k, prior, form)
    decay_h, decay_w = (None, None) if form.decay == "none" else (prior.log_decay_h, prior.log_decay_w)
    if form.decomposed:
        return rows_then_columns(_attend_lines, q, k, v, decay_w, decay_h)
    table = None
    if decay_h is not None and decay_w is not None:
        table = (decay_h[:, :, None, :, None] + decay_w[:, None, :, None, :]).flatten(3).flatten(1, 2)
    return as_one_line(functools.partial(_attend_lines, log_decay=table), q, k, v)


def _attend_lines(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None) -> Tensor:
    """Attention over (L, n, length, d), with log_decay (n, length, length)."""
    mask = log_decay[None].to(q.dtype) if log_decay is not None else None
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
