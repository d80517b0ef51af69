"""MaSA by blocks of queries in plain PyTorch: exact, any device and dtype, memory linear in the number of pixels.

The decay of a block is computed from the tables of the two axes, never stored for all pairs of tokens. The backward
pass recomputes the scores of each block. Equal to `masa.py` to 1e-5 in float32 and 1e-12 in
float64, forward and gradients.
"""

import torch
from torch import Tensor

from rmt.ops.call import Call
from rmt.ops.masa import MaSAConfig, SpatialPrior, rotate_queries_and_keys
from rmt.ops.torch.lines import grid_as_line, rows_then_columns

BLOCK_SCORES = 2**20  # computed at a time: 4 MiB in float32, little beside the activations of an image this large


def unusable(call: Call) -> str | None:
    """Return why this backend cannot serve a call, or None."""
    if call.tracing in ("compile", "export"):
        return "its loop over blocks would be unrolled in the graph"
    return None


def manhattan_attention(q: Tensor, k: Tensor, v: Tensor, prior: SpatialPrior, config: MaSAConfig) -> Tensor:
    """As `masa.manhattan_attention`."""
    q, k = rotate_queries_and_keys(q, k, prior, config)
    decay_h, decay_w = prior.log_decay_h, prior.log_decay_w
    if config.decay == "none":
        decay_h, decay_w = torch.zeros_like(decay_h), torch.zeros_like(decay_w)
    if config.decomposed:
        return rows_then_columns(_attend_line, q, k, v, decay_w, decay_h)
    return grid_as_line(lambda q, k, v: _Blocks.apply(q, k, v, decay_h, decay_w), q, k, v)


def _attend_line(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> Tensor:
    """Attention over (L, n, length, d): grids of one row."""
    one_row = log_decay.new_zeros(log_decay.shape[0], 1, 1)
    return _Blocks.apply(q, k, v, one_row, log_decay)


class _Blocks(torch.autograd.Function):
    """softmax(q·kᵀ + decay)·v over (L, n, tokens, d), whose tokens fill rows as long as the side of decay_w."""

    @staticmethod
    def forward(ctx, q, k, v, decay_h, decay_w):
        ctx.save_for_backward(q, k, v, decay_h, decay_w)
        out = torch.empty_like(v, memory_format=torch.contiguous_format)
        for lines, queries in _blocks(q, k):
            weights = _weights(q[lines, :, queries], k[lines], decay_h, decay_w, queries)
            out[lines, :, queries] = weights @ v[lines]
        return out

    @staticmethod
    def backward(ctx, grad):
        q, k, v, decay_h, decay_w = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for lines, queries in _blocks(q, k):
            part, upstream = q[lines, :, queries], grad[lines, :, queries]
            weights = _weights(part, k[lines], decay_h, decay_w, queries)
            dv[lines] += weights.mT @ upstream
            dscores = upstream @ v[lines].mT
            dscores = (dscores - (dscores * weights).sum(-1, keepdim=True)) * weights
            dq[lines, :, queries] = dscores @ k[lines]
            dk[lines] += dscores.mT @ part
        return dq, dk, dv, None, None


def _blocks(q: Tensor, k: Tensor):
    """Slices of lines and of queries with about BLOCK_SCORES scores each: whole lines, or parts of one."""
    lines, heads, tokens, keys = *q.shape[:3], k.shape[2]
    some_lines = max(1, BLOCK_SCORES // (heads * tokens * keys))
    some_queries = max(1, min(tokens, BLOCK_SCORES // (heads * keys)))
    for i in range(0, lines, some_lines):
        for j in range(0, tokens, some_queries):
            yield slice(i, i + some_lines), slice(j, min(j + some_queries, tokens))


def _weights(q: Tensor, k: Tensor, decay_h: Tensor, decay_w: Tensor, queries: slice) -> Tensor:
    """Softmax over all keys for a block of queries, (lines, n, queries, keys), in the dtype of q."""
    width = decay_w.shape[-1]
    position = torch.arange(queries.start, queries.stop, device=q.device)
    # (n, queries, rows, 1) + (n, queries, 1, width): D²ᵈ = Dᴴ ⊗ Dᵂ for these queries only
    decay = (decay_h[:, position // width, :, None] + decay_w[:, position % width, None, :]).flatten(2)
    return (q @ k.mT).to(decay.dtype).add_(decay).softmax(-1).to(q.dtype)
