"""MaSA by blocks of queries in plain PyTorch: exact, any device and dtype, memory linear in the number of pixels.

The decay of a block is computed from the tables of the two axes, never stored for all pairs of tokens. The backward
pass recomputes each block. Every form of the decay, with and without softmax. Equal to `masa.py` to 1e-5 in float32 and
1e-12 in float64, forward and gradients.
"""

import torch
from torch import Tensor

from rmt.ops.call import Call
from rmt.ops.masa import MaSAConfig, SpatialPrior, attention_weights, rotate_queries_and_keys
from rmt.ops.second_order import gradients, needs_formula
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
    if config.decomposed:  # lines are grids of one row
        one_row = decay_h.new_zeros(len(decay_h), 1, 1)
        attend_line = lambda q, k, v, log_decay: _Blocks.apply(q, k, v, one_row, log_decay, config)  # noqa: E731
        return rows_then_columns(attend_line, q, k, v, decay_w, decay_h)
    return grid_as_line(lambda q, k, v: _Blocks.apply(q, k, v, decay_h, decay_w, config), q, k, v)


class _Blocks(torch.autograd.Function):
    """Attention over (L, n, tokens, d), whose tokens fill rows as long as the side of decay_w."""

    @staticmethod
    def forward(ctx, q, k, v, decay_h, decay_w, config):
        ctx.save_for_backward(q, k, v, decay_h, decay_w)
        ctx.config = config
        out = torch.empty_like(v, memory_format=torch.contiguous_format)
        for lines, queries in _blocks(q, k):
            out[lines, :, queries] = _attend(
                q[lines, :, queries], k[lines], v[lines], decay_h, decay_w, queries, config
            )
        return out

    @staticmethod
    def backward(ctx, grad):
        q, k, v, decay_h, decay_w = ctx.saved_tensors
        if needs_formula(grad):
            whole = slice(0, q.shape[2])
            attend = lambda q, k, v: _attend(q, k, v, decay_h, decay_w, whole, ctx.config)  # noqa: E731
            return *gradients(attend, (q, k, v), grad), None, None, None
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for lines, queries in _blocks(q, k):
            part, keys, values = block = [
                t.detach().requires_grad_() for t in (q[lines, :, queries], k[lines], v[lines])
            ]
            with torch.enable_grad():
                out = _attend(part, keys, values, decay_h, decay_w, queries, ctx.config)
            dq[lines, :, queries], dk_block, dv_block = torch.autograd.grad(out, block, grad[lines, :, queries])
            dk[lines] += dk_block
            dv[lines] += dv_block
        return dq, dk, dv, None, None, None


def _blocks(q: Tensor, k: Tensor):
    """Slices of lines and of queries with about BLOCK_SCORES scores each: whole lines, or parts of one."""
    lines, heads, tokens, keys = *q.shape[:3], k.shape[2]
    some_lines = max(1, BLOCK_SCORES // (heads * tokens * keys))
    some_queries = max(1, min(tokens, BLOCK_SCORES // (heads * keys)))
    for i in range(0, lines, some_lines):
        for j in range(0, tokens, some_queries):
            yield slice(i, i + some_lines), slice(j, min(j + some_queries, tokens))


def _attend(
    q: Tensor, k: Tensor, v: Tensor, decay_h: Tensor, decay_w: Tensor, queries: slice, config: MaSAConfig
) -> Tensor:
    """Attention of a block of queries to all keys, (lines, n, queries, d)."""
    width = decay_w.shape[-1]
    position = torch.arange(queries.start, queries.stop, device=q.device)
    # (n, queries, rows, 1) + (n, queries, 1, width): D²ᵈ = Dᴴ ⊗ Dᵂ for these queries only
    decay = (decay_h[:, position // width, :, None] + decay_w[:, position % width, None, :]).flatten(2)
    return attention_weights(q @ k.mT, decay, config).to(v.dtype) @ v
