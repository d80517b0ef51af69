"""FLOPs of the kernels' operators for `torch.utils.flop_counter.FlopCounterMode`, as it counts the formula in PyTorch.

A backward pass counts twice the forward pass: what it computes again does not count.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch.utils.flop_counter import register_flop_formula


def count_flops(operator: Any, formula: Callable[..., int]) -> None:
    """Registers the formula of an operator: called with its arguments, with shapes in place of tensors."""
    register_flop_formula(operator)(lambda *arguments, out_shape=None, **options: formula(*arguments, **options))


def attention(shape: Sequence[int], decomposed: bool) -> int:
    """Of queries · keys and weights · values, for tensors of this shape (B, h, w, n, d)."""
    images, height, width, heads, channels = shape
    keys = height + width if decomposed else height * width
    return 4 * images * height * width * keys * heads * channels


def convolution(shape: Sequence[int], size: int) -> int:
    """Of a depthwise convolution of tokens of this shape (B, h, w, C)."""
    images, height, width, channels = shape
    return 2 * images * height * width * channels * size**2
