"""LayerNorm over the channels of tokens: by a kernel of our own on NVIDIA GPUs, otherwise by PyTorch's.

Under autocast the kernel computes in float32 as PyTorch's does, but reads and writes what is there: PyTorch's makes
float32 copies of both sides, that of the input kept for the backward pass.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from rmt.ops import triton
from rmt.ops.decay import being_captured
from rmt.ops.dispatch import result_dtype, takes_triton


class LayerNorm(nn.LayerNorm):
    """(…, C) to (…, C), over the last dimension. Under autocast on an NVIDIA GPU the output has autocast's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight, self.bias, self.eps)


def layer_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """LayerNorm of x (…, C) over the last dimension, with scale and shift (C,) or without both."""
    if takes_triton(x) and not being_captured(x) and (weight is not None or not x.requires_grad):
        return triton.normalise(x, weight, bias, eps, result_dtype(x))
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)
