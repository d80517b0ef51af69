"""MaSA through FlexAttention: the decay is computed from indices inside one fused, compiled kernel.

For CUDA, and on a CPU for inference (its compiled template has no backward there). Equal to `masa.py` to 1e-5 in
float32. The first call for each shape compiles, which takes a minute or so on a CPU.
"""

import functools
import importlib.util

import torch
from torch import Tensor

from rmt.ops.call import Call
from rmt.ops.masa import MaSAConfig, SpatialPrior, rotate_queries_and_keys
from rmt.ops.torch.lines import grid_as_line, rows_then_columns


def unusable(call: Call) -> str | None:
    """Return why this backend cannot serve a call, or None."""
    if call.dtypes[0] == torch.float64:
        return "FlexAttention computes in float32 or less"
    if call.device == "cpu" and call.needs_grad:
        return "FlexAttention has no backward on a CPU"
    if call.device == "cuda" and call.shape[-1] < 16:
        return "FlexAttention needs heads of 16 channels or more on CUDA"
    if call.device not in ("cpu", "cuda"):
        return f"FlexAttention does not run on {call.device}"
    if call.tracing == "export":
        return "an exported program cannot contain FlexAttention's compiled kernel"
    if importlib.util.find_spec("torch.nn.attention.flex_attention") is None:
        return "this PyTorch has no FlexAttention"
    return None


@functools.cache
def _compiled():
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def manhattan_attention(q: Tensor, k: Tensor, v: Tensor, prior: SpatialPrior, config: MaSAConfig) -> Tensor:
    """As `masa.manhattan_attention`."""
    q, k = rotate_queries_and_keys(q, k, prior, config)
    log_gamma = prior.log_gamma * (config.decay != "none")
    attend = functools.partial(_attend, log_gamma=log_gamma)
    height, width = q.shape[1:3]
    if config.decomposed:
        return rows_then_columns(attend, q, k, v, width, height)
    return grid_as_line(functools.partial(attend, width=width), q, k, v)


def _attend(q: Tensor, k: Tensor, v: Tensor, width: int, log_gamma: Tensor) -> Tensor:
    """Attention over (L, n, tokens, d) whose tokens fill rows of `width`."""

    def add_decay(score, batch, head, query, key):
        dx, dy = query % width - key % width, query // width - key // width
        return score + (dx.abs() + dy.abs()) * log_gamma[head]

    return _compiled()(q.contiguous(), k.contiguous(), v.contiguous(), score_mod=add_decay, scale=1.0)
