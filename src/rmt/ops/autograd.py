"""Autograd functions around kernels, for eager calls: PyTorch's dispatcher needs longer than small kernels."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rmt.ops.second_order import layer_norm_gradients, needs_formula


def direct(function: Callable[..., Tensor], setup_context: Callable[..., None], gradients: Callable[..., Any]) -> Any:
    """Returns `function` with gradients; the other two are as `register_autograd` takes them, but get no output."""

    class Direct(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Tensor:
            setup_context(ctx, inputs, None)
            return function(*inputs)

        backward = staticmethod(gradients)

    return Direct.apply


def direct_layer_norm(function: Callable[..., Tensor], gradients: Callable[..., tuple[Tensor, Tensor, Tensor]]) -> Any:
    """Returns LayerNorm `function(x, weight, bias, eps, dtype)` with the gradients of x, weight and bias that
    `gradients(dout, x, weight, eps)` computes. Only x is saved; mean and variance are recomputed."""

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: None) -> None:
        x, weight, _, ctx.eps, _ = inputs
        ctx.save_for_backward(x, weight)

    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        if needs_formula(dout):
            return *layer_norm_gradients(dout, x, weight, ctx.eps), None, None
        return *gradients(dout.contiguous(), x.contiguous(), weight, ctx.eps), None, None

    return direct(function, setup_context, backward)
