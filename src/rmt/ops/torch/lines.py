"""From a grid of tokens to lines of tokens and back, for the backends that attend along lines (L, n, length, d)."""

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

DecayArg = TypeVar("DecayArg")  # the argument that tells the backend's function the decay along a line


def rows_then_columns(
    attend: Callable[[Tensor, Tensor, Tensor, DecayArg], Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    along_rows: DecayArg,
    along_columns: DecayArg,
) -> Tensor:
    """As `masa.decomposed_attention`, (B, h, w, n, d), by an `attend(q, k, v, decay)` along lines."""
    v = _attend_rows(attend, q, k, v, along_rows)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # (B, w, h, n, d)
    return _attend_rows(attend, q, k, v, along_columns).transpose(1, 2)


def _attend_rows(attend: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, decay: DecayArg) -> Tensor:
    rows = q.shape[:2]
    q, k, v = (t.flatten(0, 1).transpose(1, 2) for t in (q, k, v))  # (B·rows, n, length, d)
    return attend(q, k, v, decay).transpose(1, 2).unflatten(0, rows)


def grid_as_line(attend: Callable[[Tensor, Tensor, Tensor], Tensor], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention over all pairs: the grid's tokens, row by row, as one line (B, n, h·w, d); (B, h, w, n, d)."""
    grid = q.shape[1:3]
    q, k, v = (t.flatten(1, 2).transpose(1, 2) for t in (q, k, v))
    return attend(q, k, v).transpose(1, 2).unflatten(1, grid)
