"""MaSA through PyTorch's scaled_dot_product_attention, with the decay as its additive mask.

Equal to `masa.py` to 1e-5 in float32, forward and gradients. Attention over all pairs needs a mask of (h·w)² entries
per head, so it serves small grids only.
"""

import functools

import torch.nn.functional as F
from torch import Tensor

from rmt.ops.call import Call
from rmt.ops.masa import MaSAConfig, SpatialPrior, manhattan_log_decay, rotate_queries_and_keys
from rmt.ops.torch.lines import grid_as_line, rows_then_columns

MAX_TOKENS = 400  # of a grid with attention over all pairs: the mask of 16 heads has 10 MB then


def unusable(call: Call) -> str | None:
    """Return why this backend cannot serve a call, or None."""
    full = call.config is not None and not call.config.decomposed
    if full and call.shape[1] * call.shape[2] > MAX_TOKENS:
        return f"attention over all pairs of more than {MAX_TOKENS} tokens would need a (tokens × tokens) table"
    return None


def manhattan_attention(q: Tensor, k: Tensor, v: Tensor, prior: SpatialPrior, config: MaSAConfig) -> Tensor:
    """As `masa.manhattan_attention`."""
    q, k = rotate_queries_and_keys(q, k, prior, config)
    decays = config.decay != "none"
    if config.decomposed:
        tables = (prior.log_decay_w, prior.log_decay_h) if decays else (None, None)
        return rows_then_columns(_attend, q, k, v, *tables)
    return grid_as_line(functools.partial(_attend, log_decay=manhattan_log_decay(prior) if decays else None), q, k, v)


def _attend(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None) -> Tensor:
    """Attention over (L, n, length, d), with log_decay (n, length, length)."""
    mask = log_decay[None].to(q.dtype) if log_decay is not None else None
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
