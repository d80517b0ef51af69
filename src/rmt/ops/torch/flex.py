"""MaSA through FlexAttention: the decay is computed from indices inside one fused, compiled kernel.

For CUDA, and on a CPU for inference (its compiled template has no backward there). Equal to `plain` to 1e-5 in float32.
The first call for each shape compiles, which takes a minute or so on a CPU.
"""

import functools
import importlib.util
import math

import torch
from torch import Tensor

from rmt.ops.decay import SpatialPrior, decay_rates
from rmt.ops.form import Form, being_exported
from rmt.ops.lines import as_one_line, rows_then_columns
from rmt.ops.plain import rotate_pairs


def unusable(q: Tensor, form: Form, needs_grad: bool) -> str | None:
    """Why this backend cannot serve such a call; None if it can."""
    if form.decay == "paper":
        return "it has no decay after the softmax"
    if q.dtype == torch.float64:
        return "FlexAttention computes in float32 or less"
    if q.device.type == "cpu" and needs_grad:
        return "FlexAttention has no backward on a CPU"
    if q.device.type == "cuda" and q.shape[-1] < 16:
        return "FlexAttention needs heads of 16 channels or more on CUDA"
    if q.device.type not in ("cpu", "cuda"):
        return f"FlexAttention does not run on {q.device.type}"
    if being_exported():
        return "an exported program cannot hold FlexAttention's compiled kernel"
    if importlib.util.find_spec("torch.nn.attention.flex_attention") is None:
        return "this PyTorch has no FlexAttention"
    return None


@functools.cache
def _compiled():
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def attend(q: Tensor, k: Tensor, v: Tensor, prior: SpatialPrior, form: Form) -> Tensor:
    """As `plain.attend`."""
    q, k = rotate_pairs(q, k, prior, form)
    n = q.shape[3]
    rates = [1.0] * n if form.decay == "none" else decay_rates(n, form.decay_range)
    log_gamma = torch.tensor([math.log(gamma) for gamma in rates], dtype=torch.float32, device=q.device)
    attend_lines = functools.partial(_attend_lines, log_gamma=log_gamma)
    height, width = q.shape[1:3]
    if form.decomposed:
        return rows_then_columns(attend_lines, q, k, v, width, height)
    return as_one_line(functools.partial(attend_lines, width=width), q, k, v)


def _attend_lines(q: Tensor, k: Tensor, v: Tensor, width: int, log_gamma: Tensor) -> Tensor:
    """Attention over (B, n, tokens, d) whose tokens fill rows of `width`."""

    def decay(score, batch, head, query, key):
        dx, dy = query % width - key % width, query // width - key // width
        return score + (dx.abs() + dy.abs()) * log_gamma[head]

    return _compiled()(q.contiguous(), k.contiguous(), v.contiguous(), score_mod=decay, scale=1.0)
