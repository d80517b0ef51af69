"""Attention inside windows, as in Swin, without shift and decay; and the partition of a grid into windows."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from rmt.model.rmt import ManhattanSelfAttention
from rmt.ops.masa import MaSAConfig, SpatialPrior, rotate_queries_and_keys

MAX_WINDOW = 64  # larger ones would pad small grids to a size that exhausts the memory


def to_windows(x: Tensor, size: int) -> Tensor:
    """Split a grid (B, h, w, n, d) into windows (B, windows, size², n, d), row by row, and so their tokens.

    Sides that `size` does not divide are padded with zeros on the right and at the bottom.
    """
    x = F.pad(x, (0, 0, 0, 0, 0, -x.shape[2] % size, 0, -x.shape[1] % size))
    x = x.unflatten(2, (-1, size)).unflatten(1, (-1, size))  # (B, rows, size, columns, size, n, d)
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def from_windows(x: Tensor, height: int, width: int, size: int) -> Tensor:
    """The inverse of `to_windows`: (B, windows, size², n, d) to (B, height, width, n, d), without the padding."""
    columns = -(-width // size)
    x = x.unflatten(1, (-1, columns)).unflatten(3, (size, size))  # (B, rows, columns, size, size, n, d)
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :height, :width]


def window_attention(
    q: Tensor, k: Tensor, v: Tensor, prior: SpatialPrior, config: MaSAConfig, window_size: int
) -> Tensor:
    """Softmax attention inside windows of window_size² tokens. Tokens of the padding are not attended to.

    Args and return value: as `masa.manhattan_attention`; the decay of the prior is not used.
    """
    batch, height, width = q.shape[:3]
    q, k = rotate_queries_and_keys(q, k, prior, config)
    outside = (
        to_windows(torch.ones(1, height, width, 1, 1, device=q.device), window_size)[0, :, None, None, :, 0, 0] == 0
    )
    # Rank 4, because Inductor's attention pattern matcher fails on rank 5.
    q, k, v = (to_windows(t, window_size).flatten(0, 1).transpose(1, 2) for t in (q, k, v))  # (B·windows, n, size², d)
    scores = (q @ k.transpose(-2, -1)).to(prior.log_gamma.dtype)  # (B·windows, n, size², size²)
    weights = scores.masked_fill(outside.repeat(batch, 1, 1, 1), -torch.inf).softmax(dim=-1)
    out = (weights.to(v.dtype) @ v).transpose(1, 2).unflatten(0, (batch, -1))  # (B, windows, size², n, d)
    return from_windows(out, height, width, window_size)


class LocalAttention(ManhattanSelfAttention):
    """Base of the attentions over a part of the grid, by softmax and without decay.

    Args:
        dim, num_heads, phases, lce: as in `ManhattanSelfAttention`; its `decay_range` and `decomposed` have no effect.
        window_size: side of the part of the grid that a query attends to, in tokens.
        decay, gate: must be left at their defaults (or `decay="none"`).
    """

    window_size: int = 7
    attention: ClassVar[Callable[..., Tensor]]

    def __init__(self, dim: int, num_heads: int, *, window_size: int = 7, **options: Any) -> None:
        name = type(self).__name__
        if not 1 <= window_size <= MAX_WINDOW:
            raise ValueError(f"window_size={window_size} does not lie in 1 to {MAX_WINDOW}")
        if options.get("decay") == "paper":
            raise ValueError(f"decay='paper': {name} has no decay; leave it out")
        if options.get("gate"):
            raise ValueError(f"gate=True: {name} has a softmax, which a gate would replace; leave it out")
        super().__init__(dim, num_heads, **options | dict(decomposed=False, decay="none"))
        self.window_size = window_size
        self.attend: Callable[..., Tensor] = functools.partial(type(self).attention, window_size=window_size)


class WindowAttention(LocalAttention):
    """Attention inside windows of window_size² tokens, without shift, by softmax and without decay.

    Args:
        dim, num_heads: as in `ManhattanSelfAttention`.
        window_size: side of a window in tokens.
        options: `phases` and `lce` as in `ManhattanSelfAttention`.
    """

    attention: ClassVar[Callable[..., Tensor]] = staticmethod(window_attention)
