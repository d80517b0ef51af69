"""The linear layer, whose gradient of the bias PyTorch sums slowly over many tokens of few channels on a GPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmt.ops.decay import being_captured
from rmt.ops.dispatch import result_dtype, takes_triton


class Linear(nn.Linear):
    """(…, C) to (…, C'): nn.Linear, with the gradient of the bias as a matrix product where Triton's kernels are used.

    That of RMT-S's bias took longer than that of its weight: 61 µs for 200,704 tokens of 64 channels on an H100, as a
    product 20.
    """

    def forward(self, x: Tensor) -> Tensor:
        learning = torch.is_grad_enabled() and self.bias is not None and self.bias.requires_grad
        if learning and takes_triton(x) and not being_captured(x):
            return _Linear.apply(x, self.weight, self.bias, result_dtype(x))
        return super().forward(x)


class _Linear(torch.autograd.Function):
    """x·Wᵀ + b in `dtype`."""

    @staticmethod
    def forward(ctx, x, weight, bias, dtype):
        x, cast = x.to(dtype), weight.to(dtype)
        ctx.save_for_backward(x, cast)
        ctx.dtype = weight.dtype
        return F.linear(x, cast, bias.to(dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dout):
        x, weight = ctx.saved_tensors
        dx = dweight = dbias = None
        rows = dout.flatten(0, -2)
        if ctx.needs_input_grad[0]:
            dx = (rows @ weight).view(x.shape)
        if ctx.needs_input_grad[1]:
            dweight = (rows.t() @ x.flatten(0, -2)).to(ctx.dtype)
        if ctx.needs_input_grad[2]:
            dbias = (rows.new_ones(1, len(rows)) @ rows).to(ctx.dtype)[0]
        return dx, dweight, dbias, None
