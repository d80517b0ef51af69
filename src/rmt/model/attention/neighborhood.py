"""Neighbourhood attention (NAT, arXiv 2204.07143): each query attends to the k × k tokens around it."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from rmt.model.attention.window import LocalAttention
from rmt.ops.masa import MaSAConfig, SpatialPrior, rotate_queries_and_keys


def neighbors(length: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The `size` positions around each position of an axis, clamped at its ends: near them they are all on one side.

    Returns:
        positions and whether they exist, which some do not on an axis shorter than `size`: (length, size) each.
    """
    position = torch.arange(length, device=device)
    first = (position - size // 2).clamp(max=length - size).clamp(min=0)
    found = first[:, None] + torch.arange(size, device=device)
    return found.clamp(max=length - 1), found < length


def neighborhood_attention(
    q: Tensor, k: Tensor, v: Tensor, prior: SpatialPrior, config: MaSAConfig, window_size: int
) -> Tensor:
    """Softmax attention to the window_size² nearest tokens. Keys and values are gathered, at window_size² their memory.

    Args and return value: as `masa.manhattan_attention`; the decay of the prior is not used.
    """
    batch, height, width, heads, head_dim = q.shape
    q, k = rotate_queries_and_keys(q, k, prior, config)
    rows, row_exists = neighbors(height, window_size, q.device)
    columns, column_exists = neighbors(width, window_size, q.device)
    index = rows[:, None, :, None] * width + columns[None, :, None, :]  # (h, w, size, size)
    exists = row_exists[:, None, :, None] & column_exists[None, :, None, :]
    index, exists = index.flatten(2).flatten(0, 1), exists.flatten(2).flatten(0, 1)  # (h·w, size²)
    k, v = (t.flatten(1, 2)[:, index].flatten(0, 1).transpose(1, 2) for t in (k, v))  # (B·h·w, n, size², d)
    scores = q.reshape(-1, heads, 1, head_dim) @ k.transpose(-2, -1)  # (B·h·w, n, 1, size²)
    scores = scores.to(prior.log_gamma.dtype).masked_fill(~exists.repeat(batch, 1)[:, None, None], -torch.inf)
    return (scores.softmax(dim=-1).to(v.dtype) @ v).reshape(batch, height, width, heads, -1)


class NeighborhoodAttention(LocalAttention):
    """Attention to the window_size² tokens around each query, by softmax and without decay.

    At the border the neighbourhood is moved inwards, as in NAT, not cut off.

    Args:
        dim, num_heads: as in `ManhattanSelfAttention`.
        window_size: side of the neighbourhood in tokens, odd.
        options: `phases` and `lce` as in `ManhattanSelfAttention`.
    """

    attention: ClassVar[Callable[..., Tensor]] = staticmethod(neighborhood_attention)

    def __init__(self, dim: int, num_heads: int, *, window_size: int = 7, **options: Any) -> None:
        if window_size % 2 == 0:
            raise ValueError(f"window_size={window_size}: a neighbourhood has an odd side")
        super().__init__(dim, num_heads, window_size=window_size, **options)
