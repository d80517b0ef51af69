"""The linear layer for training, with a choice of the matrix product and the gradient of its bias as such a product.

PyTorch sums that gradient slowly over many tokens of few channels: for 200,704 tokens of 64 channels on an H100, the
sum took 61 µs, longer than the gradient of the weight, and the product takes 20.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from rmt.errors import RMTError
from rmt.ops.second_order import needs_formula


def linear_with_gradients(
    x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, product: Callable[..., Tensor] = F.linear
) -> Tensor:
    """x·Wᵀ + b in `dtype`: x (…, C), weight (C', C), bias (C',) or None.

    Args:
        product: computes it, and the gradient of x, as product(x, weight, bias).
    """
    return _Linear.apply(x, weight, bias, dtype, product)


class _Linear(torch.autograd.Function):
    """x is saved, unless it can be computed again: then the node that computed it has a `recompute_output`."""

    @staticmethod
    def forward(ctx, x, weight, bias, dtype, product):
        given, x, cast = x, x.to(dtype), weight.to(dtype)
        ctx.source = given.grad_fn if x is given and hasattr(given.grad_fn, "recompute_output") else None
        ctx.save_for_backward(None if ctx.source or not ctx.needs_input_grad[1] else x, cast)
        ctx.dtype, ctx.was_cast = weight.dtype, cast is not weight or x.dtype != given.dtype
        ctx.product = product
        return product(x, cast, None if bias is None else bias.to(dtype))

    @staticmethod
    def backward(ctx, dout):
        x, weight = ctx.saved_tensors
        product = ctx.product
        if needs_formula(dout):
            if ctx.was_cast and torch.is_grad_enabled():
                raise RMTError("second derivatives through linear layers need autocast off, or RMT_BACKEND=plain")
            product = F.linear
        dx = dweight = dbias = None
        rows = dout.reshape(-1, len(weight))
        if ctx.needs_input_grad[1]:
            x = ctx.source.recompute_output(ctx.source) if ctx.source else x
            dweight = (rows.t() @ x.reshape(-1, weight.shape[1])).to(ctx.dtype)
            del x  # before its gradient is computed
        if ctx.needs_input_grad[0]:
            dx = product(rows, weight.t(), None).view(*dout.shape[:-1], weight.shape[1])
        if ctx.needs_input_grad[2]:
            dbias = (rows.new_ones(1, len(rows)) @ rows).to(ctx.dtype)[0]
        return dx, dweight, dbias, None, None
